# waits for SIGUSR1; as process 1 it cannot be killed from inside, what it starts can
go=; trap go=1 USR1
until [ "$go" ]; do sleep 0.1; done
go=; ulimit -v "$1"; seconds=$2; stay=$3; shift 3
timeout -s KILL "$seconds" "$@"
code=$?
[ "$stay" ] && until [ "$go" ]; do sleep 0.1; done
exit $code
