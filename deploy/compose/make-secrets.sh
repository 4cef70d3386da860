#!/bin/sh
# Make the secrets of compose.yaml that are not there yet, below ./secrets; what is there stays as it is.
# Only you may enter the directory. The files themselves are readable, because each service reads its own as another
# user, and sees no other.
set -eu
cd "$(dirname "$0")"
umask 022
mkdir -p secrets
chmod 0700 secrets

random() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

# keep NAME VALUE: write the value unless the file is there.
keep() {
    if [ ! -e "secrets/$1" ]; then
        printf '%s\n' "$2" >"secrets/$1.part"
        mv "secrets/$1.part" "secrets/$1"
        echo "made secrets/$1"
    fi
}

keep postgres_password "$(random)"
keep radstream_database_url "postgresql+psycopg://radstream:$(cat secrets/postgres_password)@postgres:5432/radstream"
keep redis_conf "requirepass $(random)"
keep radstream_redis_url "redis://:$(cut -d ' ' -f 2 secrets/redis_conf)@redis:6379/0"
keep radstream_phi_key "$(random)"
keep grafana_password "$(random)"
keep orthanc_users "{\"RegisteredUsers\": {\"radstream\": \"$(random)\"}}"
keep radstream_object_store_access_key_id "radstream"
keep radstream_object_store_secret_access_key "$(random)"
