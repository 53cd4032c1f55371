"""Answers of an MLflow server: those that count as a delivery, and errors for all others."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from noether.metrics.tracker import TrackerError

if TYPE_CHECKING:
    from mlflow import MlflowClient


class RequestTooLargeError(TrackerError):
    """The server refuses a request of this size (413)."""


_ANSWERS = {
    "CreateExperiment": ("experiment_id",),
    "GetExperiment": ("experiment", "experiment_id"),
    "GetExperimentByName": ("experiment", "experiment_id"),
    "CreateRun": ("run", "info", "run_id"),
    "GetRun": ("run", "info", "run_id"),
    "UpdateRun": ("run_info", "run_id"),
    "SearchRuns": ("runs",),
    "GetMetricHistory": ("metrics",),
    "LogBatch": (),
    "SetTag": (),
    "DeleteTag": (),
    "DeleteRun": (),
}
"""Requests of MLflow's REST interface, and the place in their answers that is never left out."""

_MAY_BE_EMPTY = {"SearchRuns", "GetMetricHistory"}
"""Answers that leave an empty list out."""

_REDIRECTS_THAT_FORGET = {301, 302, 303}
"""HTTP statuses after which clients repeat a POST as a GET, without its content."""


def checked_client(uri: str, place: str) -> MlflowClient:
    """Return a client that takes an answer for a delivery only if it is MLflow's.

    MLflow's own client takes an empty answer with status 200 for success, and follows redirects that drop the content.

    Args:
        uri: Address of the store.
        place: The address in messages.
    """
    from mlflow import MlflowClient
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.tracking._tracking_service.client import TrackingServiceClient
    from mlflow.utils.proto_json_utils import parse_dict
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    client = MlflowClient(tracking_uri=uri)
    plain = client._tracking_client.store
    if type(plain) is not RestStore:
        return client

    class CheckedStore(RestStore):  # type: ignore[misc]  # mlflow has no types for it
        def _call_endpoint(self, api: Any, json_body: str | None = None, *rest: Any, **options: Any) -> Any:
            if api.__name__ not in _ANSWERS or rest or options:
                return super()._call_endpoint(api, json_body, *rest, **options)
            path, method = self._METHOD_TO_INFO[api]
            content = json.loads(json_body) if json_body else None
            sent = {"params": content} if method == "GET" else {"json": content}
            response = http_request(self.get_host_creds(), path, method, raise_on_status=False, **sent)
            _require_answer(response, path, place)
            text = response.text  # `verify_rest_response` replaces an empty one
            verify_rest_response(response, path)  # raises the error that the server answers with
            parse_dict(_require_content(text, api.__name__, path, place), answer := api.Response())
            return answer

    class CheckedTracking(TrackingServiceClient):  # type: ignore[misc]  # the same
        store = CheckedStore(plain.get_host_creds)

    client._tracking_client = CheckedTracking(uri)
    return client


def _require_answer(response: Any, path: str, place: str) -> None:
    """Raise an error for a response that asks to wait, is redirected, or refuses the size of the request."""
    moved = [each for each in (*response.history, response) if each.status_code in _REDIRECTS_THAT_FORGET]
    if moved and moved[0].request.method == "POST":
        target = moved[0].headers.get("Location", "")
        raise TrackerError(
            f"MLflow at {place}: {path} is redirected to {target[:200]!r} with status {moved[0].status_code}",
            hint="set tracking_uri to the address of the server itself, or sign in",
        )
    if response.status_code == 413:
        raise RequestTooLargeError(f"MLflow at {place}: {path} refuses the request as too large (status 413)")
    wait = _seconds(response.headers.get("Retry-After", ""))
    if response.status_code in (429, 503) and wait > 0:
        raise TrackerError(
            f"MLflow at {place}: status {response.status_code}, asks to wait {wait:.0f} s", retry_after_s=wait
        )


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header, which holds a number or a date."""
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _require_content(text: str, call: str, path: str, place: str) -> Any:
    """Return the content of a successful response.

    Raises:
        TrackerError: if it is not that of MLflow's answer to this call.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    steps, inner = _ANSWERS[call], found
    for step in steps:
        inner = inner.get(step) if isinstance(inner, dict) else None
    if isinstance(found, dict):
        is_right = bool(inner) if steps else found == {}
        if is_right or (call in _MAY_BE_EMPTY and (found == {} or inner == [])):
            return found
    expected = f"an object with {'.'.join(steps)}" if steps else "{}"
    raise TrackerError(
        f"MLflow at {place}: wrong answer of {path}: found {text[:80]!r}, expected {expected}",
        hint="another service, or a proxy before the server, may answer at this address",
    )
