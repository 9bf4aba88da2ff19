"""A tree of Mininet on the userspace datapath, under a controller that runs already.

usage: python3 - DEPTH FANOUT CONTROLLER_IP CONTROLLER_PORT ping|cli
Says `built` when the network stands, and goes on when it is told to by a line.
"""
import sys
from functools import partial

from mininet.cli import CLI
from mininet.net import Mininet
from mininet.node import OVSSwitch, RemoteController
from mininet.topolib import TreeTopo

depth, fanout, ip, port, then = sys.argv[1:]
# Without batch, most of the ports of a larger switch are never attached.
switch = partial(OVSSwitch, batch=True, datapath="user", protocols="OpenFlow13", failMode="secure")
topology = TreeTopo(depth=int(depth), fanout=int(fanout))
net = Mininet(topo=topology, switch=switch, controller=None, autoSetMacs=True, build=False)
net.addController("c0", controller=RemoteController, ip=ip, port=int(port))
net.build()
for host in net.hosts:
    # Hundreds of hosts' multicast, and checksums that a userspace datapath does not make.
    host.cmd("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
    host.cmd(f"ethtool -K {host.defaultIntf()} tx off")
net.start()
net.waitConnected(timeout=60)
print("built", flush=True)
sys.stdin.readline()
if then == "cli":
    sys.stdin = open("/dev/tty")
    CLI(net)
    lost = 0.0
else:
    lost = net.pingAll(timeout=2)
print(f"lost {lost} % of the pings between all pairs", flush=True)
sys.exit(0 if lost == 0 else 1)
