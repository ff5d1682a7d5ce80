# Sourced by the image of Postgres when its data folder is new: a role and a database of its own
# for Airflow and for MLflow, neither of which may connect to the other's.
make_database() {
    # The password from the environment: everybody on the host can read a command line.
    NEW_PASSWORD="$2" psql -v ON_ERROR_STOP=1 --quiet --username "${POSTGRES_USER:-postgres}" \
        --dbname postgres --set name="$1" <<'SQL'
\getenv password NEW_PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
}

make_database airflow "${AIRFLOW_DB_PASSWORD:?}"
make_database mlflow "${MLFLOW_DB_PASSWORD:?}"
