#!/bin/sh
# The bucket, and a user who can do nothing but use it. Safe to run again.
set -eu
mc mb --ignore-existing store/tunix-rt
mc admin policy create store tunix-rt-bucket /etc/tunix-rt/policy.json
mc admin user add store tunix-rt "$ARTIFACTS_SECRET_KEY"
case "$(mc admin user info store tunix-rt)" in
*tunix-rt-bucket*) ;;
*) mc admin policy attach store tunix-rt-bucket --user tunix-rt ;;
esac
