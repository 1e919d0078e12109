"""Whether a Ray cluster takes the token that this process has, asked before `ray.init` is.

Ray 2.60 itself prints a warning and goes on trying for minutes (measured: over two and a half).
"""

from __future__ import annotations

from orchestrator.base.errors import Unreachable

_ASK_S = 5.0


def require_token(address: str) -> None:
    """Raises Unreachable where the cluster at HOST:PORT refuses this process's token, or its lack.

    Whatever else is wrong there is left to `ray.init` to say.
    """
    import grpc

    from orchestrator.cluster.ray_private import ask_cluster_id, own_token

    headers = [(key.lower(), value) for key, value in own_token().items()]
    with grpc.insecure_channel(address) as channel:
        try:
            ask_cluster_id(channel, timeout_s=_ASK_S, headers=headers)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                have = "another token" if headers else "no token"
                raise Unreachable(
                    f"the Ray cluster at {address} wants its token; this driver has {have}. Set "
                    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file."
                ) from None
