#!/usr/bin/python
# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: health_poll
short_description: Poll many HTTP endpoints at once until each of them is healthy
version_added: 0.1.0
description:
  - Asks all endpoints at once, again and again, until each has answered as expected so many times in a row, or until
    the deadline. It polls from the host on which it runs.
  - One call does for a whole inventory what M(ansible.builtin.uri) with C(until) does in a task for each host. With 200
    endpoints that is seconds rather than minutes, and it works in check mode.
  - Redirects are reported, not followed. No proxy is used.
  - Fails when the deadline passes, with the same results as on success.
author: ConnectIn operations (@connectin)
requirements:
  - jmespath (Debian C(python3-jmespath)) on the host that polls, only when an endpoint has a V(body)
options:
  endpoints:
    description:
      - What to poll. An endpoint that is ready is not asked again.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - How results and messages call it, such as the name of the service.
        type: str
        required: true
      host:
        description:
          - The inventory host that it belongs to, for results and messages.
        type: str
        default: ""
      url:
        description:
          - The address, with V(http) or V(https).
        type: str
        required: true
      status:
        description:
          - The statuses that are expected.
        type: list
        elements: int
        default: [200]
      body:
        description:
          - A JMESPath expression that has to be truthy for the body, which has to be JSON then. As in Python, C(0), the
            empty string, C(null) and empty lists are not truthy.
          - All expressions are checked before anything is polled.
        type: str
        default: ""
      contains:
        description:
          - A text that the body has to contain.
        type: str
        default: ""
      assets_prefix:
        description:
          - A path, such as V(/_next/static/). Every C(src) and C(href) in the page that starts with it has to answer
            200 on the same host, and there has to be at least one.
        type: str
        default: ""
      headers:
        description:
          - Headers to send, for instance C(Host) or C(Authorization). They are not shown.
        type: dict
        default: {}
  consecutive:
    description:
      - How many times in a row an endpoint has to answer as expected.
    type: int
    default: 1
  interval:
    description:
      - Seconds between an answer of an endpoint and the next request to it.
    type: float
    default: 1
  timeout:
    description:
      - Seconds that a request may take.
    type: float
    default: 5
  deadline:
    description:
      - Seconds that all of it may take.
    type: float
    default: 60
  threads:
    description:
      - How many requests are out at a time.
    type: int
    default: 64
  validate_certs:
    description:
      - Whether TLS certificates have to be valid.
    type: bool
    default: true
  ca_path:
    description:
      - A PEM file with certificate authorities to trust besides those of the system.
    type: path
attributes:
  check_mode:
    description: Can run in check mode and polls then too, since that changes nothing.
    support: full
  diff_mode:
    description: There is nothing to show, since nothing is ever changed.
    support: none
seealso:
  - module: ansible.builtin.uri
"""

EXAMPLES = r"""
- name: Wait until the API of every host is healthy three times in a row
  connectin.rollback.health_poll:
    endpoints:
      - name: api
        host: app1
        url: http://192.0.2.11:3000/health
        body: status == 'ok' && database == 'up'
      - name: api
        host: app2
        url: http://192.0.2.12:3000/health
        body: status == 'ok' && database == 'up'
    consecutive: 3
    deadline: 90
  delegate_to: localhost
  run_once: true

- name: See that the frontend and everything that its page loads is there
  connectin.rollback.health_poll:
    endpoints:
      - name: web
        url: https://www.example.com/
        contains: ConnectIn
        assets_prefix: /_next/static/
"""

RETURN = r"""
ready:
  description: Whether every endpoint was ready before the deadline.
  returned: when something was polled
  type: bool
  sample: false
endpoints:
  description: What became of each endpoint, in the order of the option.
  returned: when something was polled
  type: list
  elements: dict
  contains:
    name:
      description: As given.
      type: str
      sample: api
    host:
      description: As given.
      type: str
      sample: app1
    url:
      description: As given.
      type: str
      sample: http://192.0.2.11:3000/health
    ready:
      description: Whether it answered as expected often enough.
      type: bool
      sample: false
    status:
      description: The status of the last answer, 0 when there was none.
      type: int
      sample: 503
    body:
      description:
        - The body of the last answer, parsed where it is JSON of up to 20000 characters, else its first 500 characters.
        - It is null when there was no answer.
      type: raw
      sample:
        status: degraded
        database: down
    elapsed_ms:
      description: How long the last request took, in milliseconds.
      type: int
      sample: 12
    attempts:
      description: How many requests were answered or had failed, those for assets not counted.
      type: int
      sample: 58
    failures:
      description: The last five distinct reasons why it was not as expected, the newest last. Kept when it is ready.
      type: list
      elements: str
      sample: [connection refused, "answered 503, expected 200"]
    seconds:
      description: How long it took to be ready, or how long it was waited for.
      type: float
      sample: 60.004
not_ready:
  description: The endpoints that were not ready, empty when all are.
  returned: when something was polled
  type: list
  elements: dict
  contains:
    name:
      description: As given.
      type: str
      sample: api
    host:
      description: As given.
      type: str
      sample: app1
    url:
      description: As given.
      type: str
      sample: http://192.0.2.11:3000/health
    reason:
      description: Why.
      type: str
      sample: answered 503, expected 200
seconds:
  description: How long all of it took.
  returned: when something was polled
  type: float
  sample: 60.004
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.connectin.rollback.plugins.module_utils import _health, _http_poll

# A shorter value of a header is no secret, and blanking it would blank digits and words all over the results.
SHORTEST_SECRET = 6


def compile_expressions(endpoints: list[_health.Endpoint]) -> dict[str, Any]:
    """The JMESPath expressions in use as functions; the library is only needed when there are any."""
    if not any(endpoint.body for endpoint in endpoints):
        return {}
    try:
        import jmespath
    except ImportError as error:
        raise _health.HealthError(
            "The option body needs the Python library jmespath on the host that polls, and it is not there. "
            "Install it with: apt-get install python3-jmespath (or: pip install jmespath)"
        ) from error
    return _health.compile_expressions(endpoints, jmespath)


def poll(params: dict[str, Any]) -> _health.Poll:
    """Poll as the options say. Raises HealthError, before anything is polled, where they make no sense."""
    for option, least in (("consecutive", 1), ("threads", 1), ("timeout", 0.001), ("deadline", 0.001), ("interval", 0)):
        if params[option] < least:
            raise _health.HealthError(f"{option} is {params[option]:g}, and has to be at least {least:g}.")
    endpoints = [_health.endpoint(raw) for raw in params["endpoints"]]
    if not endpoints:
        raise _health.HealthError("The list endpoints is empty, so nothing would be proved. Name at least one.")
    searches = compile_expressions(endpoints)
    secure = any(endpoint.secure for endpoint in endpoints)
    context = _http_poll.tls_context(params["validate_certs"], params["ca_path"]) if secure else None
    state = _health.Poll(endpoints, params["consecutive"], params["interval"], params["deadline"], time.monotonic())
    _http_poll.run(state, searches, params["timeout"], params["threads"], context, time.monotonic)
    return state


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "endpoints": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "host": {"type": "str", "default": ""},
                    "url": {"type": "str", "required": True},
                    "status": {"type": "list", "elements": "int", "default": [200]},
                    "body": {"type": "str", "default": ""},
                    "contains": {"type": "str", "default": ""},
                    "assets_prefix": {"type": "str", "default": ""},
                    "headers": {"type": "dict", "default": {}, "no_log": True},
                },
            },
            "consecutive": {"type": "int", "default": 1},
            "interval": {"type": "float", "default": 1},
            "timeout": {"type": "float", "default": 5},
            "deadline": {"type": "float", "default": 60},
            "threads": {"type": "int", "default": 64},
            "validate_certs": {"type": "bool", "default": True},
            "ca_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    module.no_log_values = {value for value in module.no_log_values if len(value) >= SHORTEST_SECRET}
    try:
        state = poll(module.params)
    except _health.HealthError as error:
        module.fail_json(msg=str(error), changed=False)
    result = state.report(time.monotonic())
    if not result["ready"]:
        module.fail_json(msg=state.message(), changed=False, **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
