# creates the files of an archive: two texts, a secret of another owner, and a symbolic link
mkdir -p /data/2024 /data/2025
echo "$1" > /data/2024/January; echo "$2" > /data/2025/May
echo "$3" > /data/key; chmod 600 /data/key; chown 4321:4321 /data/key
ln -s 2025/May /data/latest
