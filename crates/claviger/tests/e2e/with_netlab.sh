# What must hold on real switches: run inside `claviger lab net run ring,4 --tls --policy sensor`.
# Says `ok NAME` or `FAILED NAME` for each claim; waits are for conditions, 20 s at most.
# The gateway gw is at the first switch, h1 to h4 at one switch each.

say() { if [ "$2" -eq 0 ]; then echo "ok $1"; else echo "FAILED $1"; fi; }
inside() { local host=$1; shift; ip netns exec "$host" "$@"; }
sdn() { "$CLAVIGER" sdn "$@" --state "$CLAVIGER_STATE"; }
until_true() { for _ in $(seq 200); do "$@" && return 0; sleep 0.1; done; return 1; }
pings() { inside "$1" ping -c1 -W2 "$2" >/dev/null 2>&1; }
told() { sdn events | grep -q -- "$1"; }
# The tables without what counts and with one line an entry, in one order.
tables() {
    for s in 1 2 3 4; do
        ovs-ofctl -O OpenFlow13 dump-flows "s$s" | grep cookie |
            sed -E 's/duration=[^,]*, //; s/n_packets=[^,]*, n_bytes=[^,]*, //' | sort
    done
}
in_accord() { ! sdn switches | grep -qE 'away|differ|being'; }
server() { inside gw python3 -c "
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('10.67.0.1', $1)); s.listen()
while True: s.accept()[0].sendall(b'hello')"; }
reaches() { inside "$1" timeout 2 python3 -c "
import socket
s = socket.create_connection(('10.67.0.1', $2), 1.5); assert s.recv(5) == b'hello'" 2>/dev/null; }
raw() { inside "$1" python3 -c "
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('$1', 0))
for _ in range($3): s.send(bytes.fromhex('$2'))"; }

for port in 8883 8443 22; do server $port & done
sleep 0.5

for host in h1 h2 h3 h4; do until_true pings $host 10.67.0.1; say "$host-pings-the-gateway" $?; done
until_true reaches h2 8883; say broker-is-reached $?
reaches h3 8443; say key-service-is-reached $?
! reaches h2 22; say nothing-else-of-the-gateway $?
! pings h1 10.67.1.2; say no-other-device $?
entries=$(ovs-ofctl -O OpenFlow13 dump-flows s3 | grep -c '0xc10302005e100003')
[ "$entries" -eq 2 ]; say two-entries-at-the-edge $?

# An unknown card at h4's port, and afterwards the card of h1.
inside h4 ip link set h4 address 02:99:00:00:00:04
! pings h4 10.67.0.1; say an-unknown-card-reaches-nothing $?
until_true told 'host-appeared.*02:99:00:00:00:04'; say an-unknown-card-is-listed $?
inside h4 ip link set h4 address 02:00:5e:10:00:01
! pings h4 10.67.0.1; say a-spoofed-card-reaches-nothing $?
until_true told 'spoofed.*02:00:5e:10:00:01 belongs to 0000000000000001:[0-9]*, and is spoofed at 0000000000000004:'
say a-spoof-is-told-with-both-ports $?
pings h1 10.67.0.1; say the-spoofed-device-goes-on $?
inside h4 ip link set h4 address 02:00:5e:10:00:04
until_true pings h4 10.67.0.1; say the-device-itself-goes-on $?

# A frame of discovery with a wrong hash: chassis, port, time to live, ours, end.
links=$(sdn links)
raw h4 "0180c200000e02005e10000488cc020207610402076206020078fe2802c1a701$(printf '00%.0s' $(seq 36))0000" 3
until_true told 'link-forged.*0000000000000004:'; say a-forged-link-is-told $?
[ "$(sdn links)" = "$links" ]; say a-forged-link-is-none $?

# The controller dies; nobody notices; another one finds all as it should be.
until_true in_accord
before=$(tables)
inside h2 ping -i 0.05 -c 150 -W 1 10.67.0.1 > "$CLAVIGER_STATE/ping" 2>&1 &
ping=$!
sleep 0.5
kill -9 "$CLAVIGER_CONTROLLER"
sleep 2
"$CLAVIGER" run controller --config "$CLAVIGER_STATE/site-b/controller/config.toml" >/dev/null 2>&1 &
all_up() { [ "$(sdn switches 2>/dev/null | grep -c ' up ')" -eq 4 ]; }
until_true all_up; say switches-come-back $?
until_true told 'settled: 4 switches, 4 links'; say the-network-is-found-again $?
wait $ping
grep -q '150 received' "$CLAVIGER_STATE/ping"; say no-packet-is-lost $?
until_true in_accord; say tables-equal-intent $?
[ "$(tables)" = "$before" ]; say tables-are-what-they-were $?

# A cable is cut under traffic, both ways round the ring.
for cable in c1 c4; do
    inside h1 ping -c1 -W2 10.67.0.1 >/dev/null
    inside h3 ping -i 0.01 -c 300 -W 1 10.67.0.1 > "$CLAVIGER_STATE/ping" 2>&1 &
    ping=$!
    sleep 1
    ip link set $cable-a down
    wait $ping
    lost=$(sed -nE 's/.*transmitted, ([0-9]+) received.*/\1/p' "$CLAVIGER_STATE/ping")
    echo "cut of $cable: $((300 - lost)) of 300 packets lost, one each 10 ms"
    [ "$((300 - lost))" -lt 100 ]; say "a-cut-of-$cable-costs-less-than-a-second" $?
    ip link set $cable-a up
    until_true told 'settled: 4 switches, 4 links'
    sleep 1
done
kill $(jobs -p) 2>/dev/null
exit 0
