"""A process that stores one file: `python s3_uploader.py DATABASE_URL STORE_URL FILE`."""

import sys
from pathlib import Path

from tunix_rt_common.db.session import open_database
from tunix_rt_common.storage import open_store
from tunix_rt_common.uploads import DatabaseUploads

if __name__ == "__main__":
    database_url, store_url, file = sys.argv[1:]
    open_store(store_url, DatabaseUploads(open_database(database_url))).put_file(Path(file))
