-- Run once, by Postgres' superuser, when the volume is new. The backticks are psql's: the password is on no command line.
\set ON_ERROR_STOP on
\set password `cat /run/secrets/postgres_password`
-- The owner of everything, as whom nobody signs in; those who sign in are its members, and two can take turns (runbooks/rotating.md).
CREATE ROLE ml_platform NOLOGIN;
CREATE ROLE ml_platform_a LOGIN PASSWORD :'password' IN ROLE ml_platform;
ALTER ROLE ml_platform_a SET role = ml_platform;
CREATE DATABASE dagster OWNER ml_platform;
CREATE DATABASE mlflow OWNER ml_platform;
CREATE DATABASE optuna OWNER ml_platform;
CREATE DATABASE feast OWNER ml_platform;
REVOKE CONNECT, TEMPORARY ON DATABASE dagster, mlflow, optuna, feast FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE dagster, mlflow, optuna, feast TO ml_platform;
