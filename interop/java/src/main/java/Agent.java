import io.opentelemetry.opamp.client.OpampClient;
import io.opentelemetry.opamp.client.internal.connectivity.http.OkHttpSender;
import io.opentelemetry.opamp.client.internal.connectivity.websocket.OkHttpWebSocket;
import io.opentelemetry.opamp.client.internal.request.delay.PeriodicDelay;
import io.opentelemetry.opamp.client.internal.request.service.HttpRequestService;
import io.opentelemetry.opamp.client.internal.request.service.WebSocketRequestService;
import io.opentelemetry.opamp.client.internal.response.MessageData;
import io.opentelemetry.opamp.client.internal.state.State;
import io.opentelemetry.opamp.client.request.service.RequestService;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import okio.ByteString;
import opamp.proto.AgentConfigFile;
import opamp.proto.AgentConfigMap;
import opamp.proto.AgentRemoteConfig;
import opamp.proto.RemoteConfigStatus;
import opamp.proto.RemoteConfigStatuses;
import opamp.proto.ServerErrorResponse;

/** An agent on the OpAMP client of opentelemetry-java-contrib, for the conformance tester. */
public final class Agent implements OpampClient.Callbacks {
  private final Config config = new Config();
  private ByteString lastHash = ByteString.EMPTY;

  /** The one file this agent has; any text will do. */
  private static final class Config extends State.EffectiveConfig {
    private volatile ByteString body = ByteString.encodeUtf8("greeting: hello\n");

    @Override
    public opamp.proto.EffectiveConfig get() {
      AgentConfigFile file = new AgentConfigFile(body, "text/yaml");
      return new opamp.proto.EffectiveConfig(new AgentConfigMap(Map.of("", file)));
    }

    void set(ByteString body) {
      this.body = body;
      notifyUpdate();
    }
  }

  public static void main(String[] arguments) throws Exception {
    String server = null;
    double heartbeat = 30;
    for (int i = 0; i + 1 < arguments.length; i += 2) {
      switch (arguments[i]) {
        case "--server" -> server = arguments[i + 1];
        case "--heartbeat" -> heartbeat = Double.parseDouble(arguments[i + 1]);
        default -> throw new IllegalArgumentException(arguments[i]);
      }
    }
    if (server == null) {
      System.err.println("usage: Agent --server URL [--heartbeat SECONDS]");
      System.exit(2);
    }
    Agent agent = new Agent();
    OpampClient client =
        OpampClient.builder()
            .setRequestService(service(server, Duration.ofMillis((long) (heartbeat * 1000))))
            .putIdentifyingAttribute("service.name", "java-agent")
            .putIdentifyingAttribute("service.version", "1")
            .putNonIdentifyingAttribute("os.type", "linux")
            .enableRemoteConfig()
            .enableEffectiveConfigReporting()
            .setEffectiveConfigState(agent.config)
            .build(agent);
    CountDownLatch stopped = new CountDownLatch(1);
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  try {
                    client.close();
                  } catch (java.io.IOException problem) {
                    System.err.println("close: " + problem);
                  }
                  stopped.countDown();
                }));
    stopped.await();
  }

  private static RequestService service(String server, Duration heartbeat) {
    if (server.startsWith("ws")) {
      return WebSocketRequestService.create(OkHttpWebSocket.create(server));
    }
    return HttpRequestService.create(
        OkHttpSender.create(server),
        PeriodicDelay.ofFixedDuration(heartbeat),
        HttpRequestService.DEFAULT_DELAY_BETWEEN_RETRIES);
  }

  @Override
  public void onConnect(OpampClient client) {}

  @Override
  public void onConnectFailed(OpampClient client, Throwable problem) {
    System.err.println("connect-failed " + problem);
  }

  @Override
  public void onErrorResponse(OpampClient client, ServerErrorResponse error) {
    System.err.println("error " + error.error_message);
  }

  @Override
  public void onMessage(OpampClient client, MessageData message) {
    AgentRemoteConfig offer = message.getRemoteConfig();
    if (offer == null || offer.config_hash.equals(lastHash)) {
      return;
    }
    lastHash = offer.config_hash;
    RemoteConfigStatuses status = RemoteConfigStatuses.RemoteConfigStatuses_APPLIED;
    String error = "";
    try {
      for (AgentConfigFile file : files(offer)) {
        StandardCharsets.UTF_8.newDecoder().decode(file.body.asByteBuffer());
      }
      for (AgentConfigFile file : files(offer)) {
        config.set(file.body);
      }
    } catch (CharacterCodingException problem) {
      status = RemoteConfigStatuses.RemoteConfigStatuses_FAILED;
      error = problem.toString();
    }
    client.setRemoteConfigStatus(new RemoteConfigStatus(offer.config_hash, status, error));
  }

  private static Collection<AgentConfigFile> files(AgentRemoteConfig offer) {
    return offer.config == null ? List.of() : offer.config.config_map.values();
  }
}
