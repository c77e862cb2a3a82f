#!/bin/sh
set -e
# Debian says "upgrade", rpm a number of versions that stay.
case ${1:-remove} in
upgrade | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl disable --now tracer-agent.service || true
fi
