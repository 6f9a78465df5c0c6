# What a command of `perfvisor exec` does in its guest, as an unprivileged user.
echo release=$(uname -r)
echo uid=$(id -u) gid=$(id -g) groups=$(id -G)
echo pwd=$(pwd) home=$HOME
echo said-on-stderr >&2
echo from-host=$(cat from-host)
echo written in the guest >from-guest
touch /etc/from-guest 2>/dev/null && echo etc=writable
wc -c | sed 's/^/stdin=/'
gcc -O1 -o loop loop.c && echo compiled
echo "=== stat"
perf stat -x, -e cycles -e task-clock ./loop 2>&1
perf stat -x, -o python.stat -e cycles python3 threads.py
grep '^[0-9]' python.stat | sed 's/^/python,/'
echo "=== record"
perf record -q -e cycles -F 200 -o loop.data ./loop >/dev/null && echo recorded=loop
perf record -q -e cycles -F 100 -o python.data python3 threads.py >/dev/null && echo recorded=python
echo "=== end"
exit 3
