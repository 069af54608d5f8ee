# three lives: the first ends by itself, the second is stopped, the third is killed
echo >>/lives; life=$(wc -l </lives)
trap 'echo "life $life: asked to end, and does"; exit 0' TERM
for line in 1 2 3 4; do
    echo "life $life, line $line"; sleep 0.2
done
if [ "$life" = 1 ]; then echo "life 1: fails"; exit 1; fi
while :; do echo "life $life works"; sleep 0.2; done
