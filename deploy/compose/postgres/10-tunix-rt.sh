#!/bin/sh
# The database, and its owner: a role that is no superuser. Runs once, when the volume is empty.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv password DATABASE_PASSWORD
CREATE ROLE tunix_rt LOGIN PASSWORD :'password';
CREATE DATABASE tunix_rt OWNER tunix_rt;
SQL
