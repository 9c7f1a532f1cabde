import pytest

from tunix_rt_common.endpoint import canonical_url, check_allowed
from tunix_rt_common.errors import InvalidInput


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("HTTPS://Models.Example.org:443/v1/", "https://models.example.org/v1"),
        ("http://gpu_1:80", "http://gpu_1"),
        ("http://[::1]:8000/V1//", "http://[::1]:8000/V1"),
    ],
)
def test_address_has_one_spelling(written: str, canonical: str) -> None:
    assert canonical_url(written) == canonical == canonical_url(canonical)


def test_only_servers_that_the_operator_named_are_asked() -> None:
    allowed = ("http://gpu/v1", "https://gpu/v1")
    check_allowed(allowed, "http://gpu/v1")
    for other in ("http://gpu", "http://gpu/v1/x", "http://gpu:8000/v1", "http://gpu.example/v1", "http://gpu/V1"):
        with pytest.raises(InvalidInput, match="TUNIX_RT_ENDPOINT_URLS") as refused:
            check_allowed(allowed, other)
        assert refused.value.field == "evaluate.endpoint.url"
