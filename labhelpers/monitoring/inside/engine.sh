# an engine that is started again whenever it ends; a pid file that a power cut left would name a wrong process
while :; do
    rm -f /var/run/docker.pid /var/run/docker/containerd/containerd.pid
    dockerd --host=unix:///var/run/docker.sock --bridge=none --iptables=false
done
