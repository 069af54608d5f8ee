# three runs: the first fails, the second is stopped, the third is killed
echo >>/runs; run=$(wc -l </runs)
trap 'echo "run $run: SIGTERM, exits"; exit 0' TERM
for line in 1 2 3 4; do
    echo "run $run, line $line"; sleep 0.2
done
if [ "$run" = 1 ]; then echo "run 1: fails"; exit 1; fi
while :; do echo "run $run works"; sleep 0.2; done
