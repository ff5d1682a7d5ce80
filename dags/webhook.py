"""Webhook: posts an alert as JSON to the address of an Airflow connection.

The connection's `host` is the whole address, `https://…`; its `password`, if any, goes along as a
bearer token. The field `text` is what chat programs show; the others are the alert's own.
"""

import json
import urllib.request
from dataclasses import asdict
from typing import Any

from airflow.sdk import BaseHook, BaseNotifier

from schemas.errors import SettingsError

TIMEOUT_SECONDS = 4.0
"""Three of them and the pauses between fit into the 20 s that Airflow leaves a task's callbacks."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Lets a redirect fail: a GET would arrive elsewhere, without the alert, with its token."""

    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirect)


class WebhookNotifier(BaseNotifier):
    """Sends the `alert` of its context.

    Args:
        connection: Id of the Airflow connection.
    """

    def __init__(self, connection: str) -> None:
        super().__init__()
        self.connection = connection

    def notify(self, context: Any) -> None:
        """Posts the alert.

        Raises:
            SettingsError: The connection's host is no web address.
            OSError: It cannot be reached, or refuses.
        """
        connection = BaseHook.get_connection(self.connection)
        address = connection.host or ""
        if not address.startswith(("https://", "http://")):
            found = f"a host in connection {self.connection} that is no web address"
            raise SettingsError(found, "https://…", "the connection")
        alert = asdict(context["alert"])
        body = json.dumps({"text": f"{alert['title']}: {alert['reason']}", **alert}).encode()
        headers = {"Content-Type": "application/json"}
        if connection.password:
            headers["Authorization"] = f"Bearer {connection.password}"
        request = urllib.request.Request(address, body, headers)
        with OPENER.open(request, timeout=TIMEOUT_SECONDS):
            self.log.info("alert sent to connection %s", self.connection)
