"""A federation across machines that lets nobody in, by Flower's own means.

**Who talks to whom.** Certificates are made once, where the SuperLink runs, with the names by
which it is reached::

    openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj "/CN=our authority" \\
        -keyout ca.key -out ca.crt
    openssl req -newkey rsa:3072 -nodes -subj "/CN=our SuperLink" \\
        -keyout server.key -out server.csr
    echo "subjectAltName = DNS:localhost, IP:127.0.0.1" > names.cnf
    openssl x509 -req -days 365 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial \\
        -extfile names.cnf -out server.pem

Each node makes a key of its own, sends ``node-0.pub`` to the SuperLink and gets ``ca.crt``, both
on a way that is trusted. ``node-0`` and ``ca.key`` are never sent::

    ssh-keygen -q -t ecdsa -b 384 -N "" -C "" -f node-0

The SuperLink is started, and told whom to let in. A node without a registered key is refused by
it; a SuperLink without a certificate that ``ca.crt`` vouches for is refused by nodes and by
``flwr``::

    flower-superlink --host 0.0.0.0 --port 8000 --enable-supernode-auth \\
        --ssl-ca-certfile ca.crt --ssl-certfile server.pem --ssl-keyfile server.key
    flwr supernode register node-0.pub our-link
    flower-supernode --superlink localhost:8000 --root-certificates ca.crt \\
        --auth-supernode-private-key node-0 --node-config "partition-id=0 num-partitions=8"
    flwr run app our-link

with ``our-link`` in ``$FLWR_HOME/config.toml``::

    [superlink.our-link]
    address = "localhost:8000"
    root-certificates = "/where/it/is/ca.crt"

**Who sees what.** With ``secure = true`` in the app's configuration the server gets sums only: see
:mod:`~metalearn_tut.federated.flower.sums`.

**What still leaks**, and to whom:

* The server learns the sum of the updates and of the losses, so what all nodes together know; how
  many images each node has; who takes part, when, and who failed with which message. Of two nodes
  that are asked, each can take its own part off the sum, and has the other's.
* What can be learned from the model itself is in the model. Nothing here adds noise: this is not
  differential privacy.
* The masks are Flower's. In Flower 1.41 their generator has a seed of 32 bits, and nodes take each
  other's public keys from the server. They keep an update from whoever reads what the server
  stores or logs, and from an honest server; not from one that tries all seeds, or gives out keys
  of its own.
* A sum cannot be looked through: one registered node with a bad update spoils it, by up to clip.
* Whoever reaches the SuperLink's port can also submit runs and register nodes, which Flower
  1.41 asks nobody's name for, and **nodes run the app that is submitted**. Let only paths under
  ``/v1/fleet/`` through from outside (a reverse proxy does that), or only the nodes' addresses;
  ``flower-supernode --trusted-entities`` has a node refuse apps that a known key has not signed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Guard:
    """The files of the commands above, in one folder, as options of Flower's programs.

    Parameters
    ----------
    folder : Path
        With ``ca.crt``, ``server.pem``, ``server.key``, and of each node ``node-<i>`` and
        ``node-<i>.pub``. A node needs the first and its own; the SuperLink those without numbers.

    Examples
    --------
    >>> Guard(Path("/keys")).node(2)
    ('--root-certificates', '/keys/ca.crt', '--auth-supernode-private-key', '/keys/node-2')
    """

    folder: Path

    def link(self) -> tuple[str, ...]:
        """Of ``flower-superlink``."""
        return (
            *("--enable-supernode-auth", "--ssl-ca-certfile", self._path("ca.crt")),
            *("--ssl-certfile", self._path("server.pem")),
            *("--ssl-keyfile", self._path("server.key")),
        )

    def node(self, client: int) -> tuple[str, ...]:
        """Of ``flower-supernode``."""
        own = ("--auth-supernode-private-key", self._path(f"node-{client}"))
        return ("--root-certificates", self._path("ca.crt"), *own)

    def public_key(self, client: int) -> Path:
        """What the SuperLink is to know of a node."""
        return Path(self._path(f"node-{client}.pub"))

    def connection(self) -> str:
        """A line of ``flwr``'s configuration."""
        return f"root-certificates = {json.dumps(self._path('ca.crt'))}"

    def _path(self, name: str) -> str:
        return str(Path(self.folder).expanduser().absolute() / name)
