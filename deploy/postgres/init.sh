#!/bin/sh
# Runs once, in an empty PostgreSQL container. The service's role is no superuser: row-level security binds it.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$RAPPORT_DB_PASSWORD" -U "${POSTGRES_USER:-postgres}" -d postgres <<'SQL'
CREATE ROLE rapport LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE rapport OWNER rapport;
\connect rapport
CREATE EXTENSION vector;
SQL
