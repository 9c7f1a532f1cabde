"""Imports over HTTP: a bundle's files one by one, then its description."""

from fastapi import APIRouter, Request, Response, status
from starlette.concurrency import run_in_threadpool

from tunix_rt_api.bodies import JsonRoute, refuse_compressed
from tunix_rt_api.deps import ReadingDep, ServicesDep
from tunix_rt_api.imports import service
from tunix_rt_api.imports.uploading import Upload
from tunix_rt_api.runs.schemas import RunOut
from tunix_rt_api.runs.service import show
from tunix_rt_common.runbundle import RunBundle

router = APIRouter(prefix="/imports", tags=["imports"], route_class=JsonRoute)


@router.put("/files/{sha256}", status_code=status.HTTP_204_NO_CONTENT)
async def upload_file(sha256: str, request: Request, services: ServicesDep) -> None:
    """Store a file under its sha256, as it streams in. Nothing refers to it until an import does."""
    refuse_compressed(request)
    with Upload(services, sha256) as upload:
        async for chunk in request.stream():
            await run_in_threadpool(upload.feed, chunk)
        await run_in_threadpool(upload.finish)


@router.post("", status_code=status.HTTP_202_ACCEPTED)
def import_run(bundle: RunBundle, services: ServicesDep, response: Response) -> RunOut:
    """Check a bundle whose files are uploaded and take its run in; once, however often it is asked for."""
    run = service.import_run(services, bundle)
    response.headers["Location"] = f"/api/v1/runs/{run.run_id}"
    return run


@router.get("/{bundle_sha256}")
def get_import(bundle_sha256: str, session: ReadingDep) -> RunOut:
    """The run that came of a bundle, by the digest of its description."""
    return show(service.find_import(session, bundle_sha256))
