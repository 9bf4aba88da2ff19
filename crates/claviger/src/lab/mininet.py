"""A tree of Mininet on the userspace datapath, under a controller that runs already.

usage: python3 - DEPTH FANOUT CONTROLLER_IP CONTROLLER_PORT all|first|cli|wait cables|relayed
Says `wired` before switches run, and then `host NAME PROCESS` for every host and `built` when the network stands; goes
on each time when it is told to by a line. Between a host and its switch lies a cable, or, where somebody is to relay
frames, two cables, whose ends are said before `wired`: `joint HOST NEAR FAR`.
"""
import sys
from functools import partial

from mininet.cli import CLI
from mininet.link import Link
from mininet.net import Mininet
from mininet.node import Host, OVSSwitch, RemoteController
from mininet.topolib import TreeTopo
from mininet.util import makeIntfPair, quietRun


def ping_all(net):
    """Lets every host ping every other once; returns how many answers were missing."""
    lost = 0
    for start in range(0, len(net.hosts), 4):
        row = net.hosts[start:start + 4]
        for host in row:
            others = " ".join(other.IP() for other in net.hosts if other is not host)
            host.sendCmd(f"for ip in {others}; do ping -c1 -W2 $ip >/dev/null 2>&1 || echo $ip; done")
        for host in row:
            missing = host.waitOutput().split()
            lost += len(missing)
            if missing:
                print(f"{host.name} has no answer of {' '.join(missing)}", flush=True)
        # The kernel keeps 1024 neighbours, of all hosts on the machine together.
        for each in net.hosts:
            each.sendCmd("ip neigh flush all")
        for each in net.hosts:
            each.waitOutput()
    return lost


def ping_first(net):
    """Lets every host ping the first, which it may, and its neighbour, which it may not."""
    first, *others = net.hosts
    lost = reached = 0
    for start in range(0, len(others), 25):
        row = others[start:start + 25]
        for n, host in enumerate(row):
            neighbour = row[n - 1] if len(row) > 1 else others[0]
            # The kernel keeps 1024 neighbours, of all hosts on the machine together.
            host.sendCmd(
                f"ping -c1 -W5 {first.IP()} >/dev/null 2>&1 || echo lost; "
                f"ping -c1 -W1 {neighbour.IP()} >/dev/null 2>&1 && echo reached; "
                f"ip neigh flush all"
            )
        for host in row:
            said = host.waitOutput().split()
            if said:
                print(f"{host.name}: {' '.join(said)}", flush=True)
            lost += said.count("lost")
            reached += said.count("reached")
        first.cmd("ip neigh flush all")
    print(f"{lost} of {len(others)} permitted pings lost", flush=True)
    print(f"{reached} of {len(others)} forbidden pings answered", flush=True)
    return lost + reached


def card(number):
    """The card of the host with this number, as Claviger names emulated devices."""
    digits = f"{0x02005E100000 + number:012x}"
    return ":".join(digits[at:at + 2] for at in range(0, 12, 2))


class RelayedLink(Link):
    """A link of a host in two cables; between their near ends somebody relays frames. The gateway has a cable."""

    joints = []

    @classmethod
    def makeIntfPair(cls, intfname1, intfname2, addr1=None, addr2=None, node1=None, node2=None, deleteIntfs=True):
        host = next((node for node in (node1, node2) if isinstance(node, Host)), None)
        if host is None or host.name == "h1":
            return super().makeIntfPair(intfname1, intfname2, addr1, addr2, node1, node2, deleteIntfs)
        near, far = f"{host.name}-r", f"{host.name}-f"
        for name, node in ((intfname1, node1), (intfname2, node2)):
            end = near if node is host else far
            makeIntfPair(end, name, node2=node, deleteIntfs=deleteIntfs)
            quietRun(f"ip link set {end} up")
        cls.joints.append((host.name, near, far))
        return None


depth, fanout, ip, port, then, links = sys.argv[1:]
# Without batch, most of the ports of a larger switch are never attached.
switch = partial(OVSSwitch, batch=True, datapath="user", protocols="OpenFlow13", failMode="secure")
topology = TreeTopo(depth=int(depth), fanout=int(fanout))
link = RelayedLink if links == "relayed" else Link
net = Mininet(topo=topology, switch=switch, link=link, controller=None, build=False)
net.addController("c0", controller=RemoteController, ip=ip, port=int(port))
net.build()
for number, host in enumerate(net.hosts, 1):
    host.setMAC(card(number))
    # Hundreds of hosts' multicast, and checksums that a userspace datapath does not make.
    host.cmd("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
    host.cmd(f"ethtool -K {host.defaultIntf()} tx off")
for joint in RelayedLink.joints:
    print("joint", *joint)
print("wired", flush=True)
sys.stdin.readline()
net.start()
net.waitConnected(timeout=60)
for host in net.hosts:
    print(f"host {host.name} {host.pid}")
print("built", flush=True)
sys.stdin.readline()
if then == "cli":
    sys.stdin = open("/dev/tty")
    CLI(net)
    sys.exit(0)
if then == "wait":
    sys.exit(0)
if then == "first":
    sys.exit(0 if ping_first(net) == 0 else 1)
lost = ping_all(net)
print(f"{lost} of {len(net.hosts) * (len(net.hosts) - 1)} pings lost", flush=True)
sys.exit(0 if lost == 0 else 1)
