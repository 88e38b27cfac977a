#!/bin/sh
# Make the database's password, once: for PostgreSQL itself, and as a service file for libpq, which takes a password from
# there without it standing in a URL, an argument or the environment. Given again, it keeps what is there.
set -eu
cd "$(dirname "$0")"
if [ -d secrets ]; then
    echo "docker/secrets is there already and is kept."
    exit 0
fi
rm -rf secrets.partial
mkdir -m 700 secrets.partial
# Compose mounts the files with the modes they have here, and the users of the containers are not the one of this script:
# the files are readable, the folder around them is not.
umask 022
password="$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
printf '%s\n' "$password" > secrets.partial/database_password
printf '[pocket]\npassword=%s\n' "$password" > secrets.partial/pg_service.conf
mv secrets.partial secrets
echo "docker/secrets holds a new password. It belongs to the database volume that is made with it."
