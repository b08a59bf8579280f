"""An agent on the OpAMP client of opentelemetry-python-contrib, for the conformance tester.

It takes any configuration that is text, and reports it as its effective one.
"""

import argparse
import signal
import sys
import threading

from opentelemetry._opamp.agent import OpAMPAgent
from opentelemetry._opamp.callbacks import OpAMPCallbacks
from opentelemetry._opamp.client import OpAMPClient
from opentelemetry._opamp.proto import opamp_pb2


class Callbacks(OpAMPCallbacks):
    """Applies what the server offers."""

    def __init__(self):
        self.last_hash = None

    def on_connect_failed(self, agent, client, error):
        print(f"connect-failed {error}", file=sys.stderr)

    def on_error(self, agent, client, error_response):
        print(f"error {error_response.error_message}", file=sys.stderr)

    def on_message(self, agent, client, message):
        offer = message.remote_config
        if offer is None or offer.config_hash == self.last_hash:
            return
        self.last_hash = offer.config_hash
        status, error = opamp_pb2.RemoteConfigStatuses_APPLIED, ""
        try:
            for file in offer.config.config_map.values():
                file.body.decode()
        except UnicodeDecodeError as problem:
            status, error = opamp_pb2.RemoteConfigStatuses_FAILED, str(problem)
        if client.update_remote_config_status(offer.config_hash, status, error) is None:
            return
        if status == opamp_pb2.RemoteConfigStatuses_APPLIED:
            files = {name: file.body.decode() for name, file in offer.config.config_map.items()}
            client.update_effective_config(files, content_type="text/yaml")
        agent.send(client.build_full_state_message())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="http or https URL")
    parser.add_argument("--heartbeat", type=float, default=30, help="seconds between polls")
    parser.add_argument("--ca", default=None, help="PEM file with the authority to trust")
    args = parser.parse_args()

    client = OpAMPClient(
        endpoint=args.server,
        agent_identifying_attributes={"service.name": "python-agent", "service.version": "1"},
        agent_non_identifying_attributes={"os.type": sys.platform},
        tls_certificate=args.ca if args.ca else True,
    )
    client.update_effective_config({"": "greeting: hello\n"}, content_type="text/yaml")
    agent = OpAMPAgent(interval=args.heartbeat, callbacks=Callbacks(), client=client)
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopped.set())
    agent.start()
    stopped.wait()
    agent.stop()


if __name__ == "__main__":
    main()
