// An agent on @elastic/opamp-client-node, for the conformance tester. It takes any configuration
// that is text. The client has no effective configuration to report.

import {readFileSync} from 'node:fs';
import {parseArgs} from 'node:util';

import {
    AgentCapabilities,
    RemoteConfigStatuses,
    createOpAMPClient,
} from '@elastic/opamp-client-node';

const {values} = parseArgs({
    options: {
        server: {type: 'string'},
        heartbeat: {type: 'string', default: '30'},
        ca: {type: 'string'},
    },
});
if (!values.server) {
    console.error('usage: agent.mjs --server URL [--heartbeat SECONDS] [--ca PEM]');
    process.exit(2);
}

let lastHash = '';
const client = createOpAMPClient({
    endpoint: values.server,
    heartbeatIntervalSeconds: Number(values.heartbeat),
    connect: values.ca ? {ca: readFileSync(values.ca)} : undefined,
    capabilities:
        AgentCapabilities.AgentCapabilities_AcceptsRemoteConfig |
        AgentCapabilities.AgentCapabilities_ReportsRemoteConfig,
    onMessage: ({remoteConfig}) => {
        const hash = remoteConfig && Buffer.from(remoteConfig.configHash).toString('hex');
        if (!remoteConfig || hash === lastHash) {
            return;
        }
        lastHash = hash;
        let status = RemoteConfigStatuses.RemoteConfigStatuses_APPLIED;
        let errorMessage = '';
        try {
            for (const file of Object.values(remoteConfig.config?.configMap ?? {})) {
                new TextDecoder('utf-8', {fatal: true}).decode(file.body);
            }
        } catch (problem) {
            status = RemoteConfigStatuses.RemoteConfigStatuses_FAILED;
            errorMessage = String(problem);
        }
        client.setRemoteConfigStatus({
            status,
            errorMessage,
            lastRemoteConfigHash: remoteConfig.configHash,
        });
    },
});
client.setAgentDescription({
    identifyingAttributes: {'service.name': 'node-agent', 'service.version': '1'},
    nonIdentifyingAttributes: {'os.type': process.platform},
});
client.start();

let stopping = false;
for (const name of ['SIGTERM', 'SIGINT']) {
    process.on(name, async () => {
        if (!stopping) {
            stopping = true;
            await client.shutdown();
            process.exit(0);
        }
    });
}
// The client's timers do not keep the process alive.
setInterval(() => {}, 1 << 30);
