"""Why an MLflow store cannot be used, in one sentence with what to do: never an error's name alone.

MLflow gives nearly all of it one code, INTERNAL_ERROR, so the sentence goes by the status of the
answer where there is one, and by what the transport beneath it says where there is none.
"""

from __future__ import annotations

import re

from mlflow.exceptions import MlflowException

from orchestrator.base.urls import redact
from orchestrator.stores.mlflow_private import known_schemas

_BY_STATUS = {
    401: "it wants a user, and knows none or another (401). Set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    403: "it knows who asks and does not allow it (403). Ask for the right to read and write "
    "experiments there, or use another user's MLFLOW_TRACKING_TOKEN or name and password",
    404: "something answers there that has no MLflow under this path (404). Name the address as "
    "MLflow's page has it, with its path prefix if it has one, and nothing behind that",
    405: "what answers there takes no requests of MLflow (405). Name the address as MLflow's page "
    "has it",
    407: "the proxy wants a user (407). Put its name and password into HTTPS_PROXY or HTTP_PROXY",
    429: "it is asked too often (429). Run the same command again in a while",
    502: "a proxy answers, and the MLflow server behind it does not (502). Start that server",
    503: "it says that it is not ready (503). Run the same command again once it is",
    504: "a proxy answers, and the MLflow server behind it is too slow (504). Look at that server",
}
_STATUS = re.compile(r"error code (\d{3}) != 200|too many (\d{3}) error responses")
_OUTDATED = re.compile(r"out-of-date database schema \(found version (\w+)")
_CERTIFICATE = (
    "its certificate is not trusted here. Set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of the "
    "authority that signed it"
)
_CLIENT_CERTIFICATE = (
    "it wants a client's certificate, or hangs up for lack of one. Set "
    "MLFLOW_TRACKING_CLIENT_CERT_PATH to a PEM file with certificate and key"
)
# Pieces of what requests, urllib3 and OpenSSL say, in the order in which they are looked for.
_BY_TRANSPORT = {
    "CERTIFICATE_VERIFY_FAILED": _CERTIFICATE,
    "CERTIFICATE_REQUIRED": _CLIENT_CERTIFICATE,
    "certificate required": _CLIENT_CERTIFICATE,
    "HANDSHAKE_FAILURE": _CLIENT_CERTIFICATE,
    "SSLEOFError": _CLIENT_CERTIFICATE,  # TLS 1.3 tells after the handshake, often to nobody
    "WRONG_VERSION_NUMBER": "it does not speak TLS. Name it with http:// instead of https://",
    "407 Proxy Authentication Required": _BY_STATUS[407],
    "ProxyError": "the proxy does not pass it on. Correct HTTPS_PROXY or HTTP_PROXY, or leave this "
    "server out with NO_PROXY",
    "not in a valid JSON format": "what answers there is no MLflow but a page, a login perhaps. "
    "Name the address that MLflow's clients use, and set MLFLOW_TRACKING_TOKEN if it wants one",
    "timed out": "it takes the connection and does not answer in time. Look at the server, or set "
    "MLFLOW_HTTP_REQUEST_TIMEOUT to more seconds",
}


def status_of(error: Exception) -> int | None:
    """The HTTP status that an MLflow server, or a proxy before it, answered with."""
    found = _STATUS.search(str(error))
    if found:
        return int(found[1] or found[2])
    code = getattr(error, "error_code", None)
    return {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "ENDPOINT_NOT_FOUND": 404}.get(code)


def reason(error: Exception) -> str:
    """One sentence without its full stop, and without credentials."""
    text = str(error)
    if found := _OUTDATED.search(text):
        return _schema(found[1])
    if (status := status_of(error)) in _BY_STATUS:
        return _BY_STATUS[status]
    for piece, sentence in _BY_TRANSPORT.items():
        if piece in text:
            return sentence
    code = getattr(error, "error_code", None) if isinstance(error, MlflowException) else None
    if code == "INTERNAL_ERROR":  # says nothing: the first line of the message does
        line = redact(text).strip().splitlines()[0][:300] if text.strip() else ""
        return line.rstrip(".") or type(error).__name__
    return code or type(error).__name__


def _schema(version: str) -> str:
    if version in known_schemas():
        return (
            "its tables are those of an older MLflow. Back the database up, then bring them up to "
            "date with `mlflow db upgrade URI`"
        )
    return (
        f"its tables ({version}) are not known to the MLflow that is installed here: a newer one "
        "made them. Install that one, or name another store"
    )
