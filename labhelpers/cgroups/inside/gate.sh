# waits for SIGUSR1; as process 1 it cannot be killed from inside, its children can
go=; trap go=1 USR1
until [ "$go" ]; do sleep 0.1; done
go=; ulimit -v "$1"; seconds=$2; keep=$3; shift 3
timeout -s KILL "$seconds" "$@"
code=$?
[ "$keep" ] && until [ "$go" ]; do sleep 0.1; done
exit $code
