// The server against clients that behave and clients that do not, over real sockets of this host.
#include "runtime/metrics/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <vector>

#include "runtime/base/error.h"

namespace penstock {
namespace {

using namespace std::chrono_literals;

// Against hanging only: a machine may be as slow as it likes.
constexpr auto kPatience = 60s;

class Client {
 public:
  explicit Client(uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval patience{kPatience.count(), 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  ~Client() { close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void say(const std::string& text) { ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL); }
  void end_speech() { shutdown(socket_, SHUT_WR); }
  /// Everything until the server closes.
  std::string hear() {
    std::string all;
    char piece[4096];
    for (ssize_t n = 0; (n = recv(socket_, piece, sizeof piece, 0)) > 0;)
      all.append(piece, static_cast<size_t>(n));
    return all;
  }
  bool closed_within(std::chrono::milliseconds time) const {
    pollfd watched{socket_, POLLIN, 0};
    char piece = 0;
    return poll(&watched, 1, static_cast<int>(time.count())) == 1 && recv(socket_, &piece, 1, 0) <= 0;
  }

 private:
  int socket_;
};

std::optional<HttpAnswer> pages(std::string_view path) {
  if (path == "/") return HttpAnswer{"text/plain", "hello"};
  if (path == "/large") return HttpAnswer{"text/plain", std::string(size_t{64} << 20, 'x')};
  if (path == "/broken") throw Error("it broke");
  return std::nullopt;
}

std::string ask(const HttpServer& server, const std::string& request) {
  Client client(server.port());
  client.say(request);
  return client.hear();
}

constexpr const char* kGet = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

TEST(HttpServer, AnswersGetAndHeadOnItsPagesAndNothingElse) {
  const HttpServer server("127.0.0.1", 0, pages);
  const std::string got = ask(server, kGet);
  EXPECT_EQ(got.rfind("HTTP/1.1 200 OK\r\n", 0), 0u) << got;
  EXPECT_NE(got.find("\r\n\r\nhello"), std::string::npos);
  EXPECT_NE(got.find("Content-Security-Policy: default-src 'none'"), std::string::npos);

  const std::string head = ask(server, "HEAD /?a=b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(head.rfind("HTTP/1.1 200 OK\r\n", 0), 0u) << head;
  EXPECT_NE(head.find("Content-Length: 5\r\n"), std::string::npos);
  EXPECT_EQ(head.find("hello"), std::string::npos);

  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"}) {
    const std::string refused = ask(server, std::string(method) + " / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(refused.rfind("HTTP/1.1 405 ", 0), 0u) << refused;
    EXPECT_NE(refused.find("Allow: GET, HEAD\r\n"), std::string::npos);
  }
  for (const char* path : {"/other", "/../etc/passwd", "//", "*"})
    EXPECT_EQ(
        ask(server, std::string("GET ") + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .rfind("HTTP/1.1 404 ", 0),
        0u)
        << path;
  EXPECT_EQ(ask(server, "GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n").rfind("HTTP/1.1 500 ", 0), 0u);
}

TEST(HttpServer, OnLoopbackAnswersOnlyThoseWhoAskForLoopback) {
  const HttpServer server("127.0.0.1", 0, pages);
  const auto status = [&](const std::string& host) {
    return ask(server, "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n").substr(9, 3);
  };
  for (const char* host :
       {"localhost", "localhost:9400", "127.0.0.1:9400", "127.8.8.8", "[::1]", "[::1]:9400", ""})
    EXPECT_EQ(status(host), "200") << host;
  for (const char* host :
       {"attacker.example", "attacker.example:9400", "10.0.0.1", "localhost.attacker.example", "[::2]:9400"})
    EXPECT_EQ(status(host), "421") << host;
  const HttpServer everywhere("0.0.0.0", 0, pages);
  EXPECT_EQ(ask(everywhere, "GET / HTTP/1.1\r\nHost: node7\r\nConnection: close\r\n\r\n").substr(9, 3),
            "200");
}

TEST(HttpServer, AnswersSeveralRequestsOnOneConnection) {
  const HttpServer server("127.0.0.1", 0, pages);
  const std::string both = ask(server, std::string("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") + kGet);
  const size_t first = both.find("hello");
  EXPECT_NE(both.find("hello", first + 1), std::string::npos);
}

TEST(HttpServer, RefusesWhatIsNoRequestOrTooLong) {
  const HttpServer server("127.0.0.1", 0, pages);
  EXPECT_EQ(ask(server, "\x16\x03\x01 hello over TLS\r\n\r\n").rfind("HTTP/1.1 400 ", 0), 0u);
  EXPECT_EQ(ask(server, "GET /" + std::string(1 << 20, 'a') + " HTTP/1.1\r\n\r\n").rfind("HTTP/1.1 431 ", 0),
            0u);
  EXPECT_EQ(
      ask(server, "GET / HTTP/1.1\r\nX: " + std::string(1 << 20, 'a') + "\r\n\r\n").rfind("HTTP/1.1 431 ", 0),
      0u);
  EXPECT_EQ(ask(server, "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc")
                .rfind("HTTP/1.1 400 ", 0),
            0u);
  EXPECT_EQ(ask(server, kGet).rfind("HTTP/1.1 200 ", 0), 0u);
}

TEST(HttpServer, ServesAScraperBesideTwoHundredIdleConnections) {
  const HttpServer server("127.0.0.1", 0, pages);
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 200; ++i) {
    idle.push_back(std::make_unique<Client>(server.port()));
    if (i % 2 == 0) idle.back()->say("GET / HT");
  }
  EXPECT_EQ(ask(server, kGet).rfind("HTTP/1.1 200 ", 0), 0u);
  EXPECT_TRUE(idle.front()->closed_within(kPatience)) << "the oldest idle connection makes room";
  EXPECT_FALSE(idle.back()->closed_within(0ms)) << "the newest stays";
}

TEST(HttpServer, HangsUpOnAClientThatDoesNotGoOn) {
  HttpLimits limits;
  limits.step = 1s;
  const HttpServer server("127.0.0.1", 0, pages, limits);
  Client silent(server.port());
  Client drip(server.port());
  drip.say("GET / HTTP/1.1\r\n");
  Client half_open(server.port());
  half_open.say("GET / HT");
  half_open.end_speech();
  Client deaf(server.port());  // asks for more than socket buffers hold, and reads nothing
  deaf.say("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(half_open.closed_within(kPatience));
  EXPECT_TRUE(silent.closed_within(kPatience));
  EXPECT_TRUE(drip.closed_within(kPatience));
  Client later(server.port());  // comes after the deaf one, whose time is over before its own
  EXPECT_TRUE(later.closed_within(kPatience));
  EXPECT_LT(deaf.hear().size(), size_t{64} << 20);
  EXPECT_EQ(ask(server, kGet).rfind("HTTP/1.1 200 ", 0), 0u);
}

TEST(HttpServer, EndsAtOnceWhateverClientsDo) {
  HttpLimits limits;
  limits.step = 1h;  // so that none of them is hung up on before
  auto server = std::make_unique<HttpServer>("127.0.0.1", 0, pages, limits);
  Client silent(server->port());
  Client deaf(server->port());
  deaf.say("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(ask(*server, kGet).rfind("HTTP/1.1 200 ", 0), 0u);
  const auto begin = std::chrono::steady_clock::now();
  server.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kPatience);
}

TEST(HttpServer, SaysWhereItCannotListen) {
  const HttpServer server("127.0.0.1", 0, pages);
  EXPECT_EQ(server.address(), "127.0.0.1:" + std::to_string(server.port()));
  try {
    const HttpServer second("127.0.0.1", server.port(), pages);
    FAIL() << "two servers on one port";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("--port " + std::to_string(server.port())), std::string::npos)
        << e.what();
  }
  EXPECT_THROW(HttpServer("203.0.113.7", 0, pages), UsageError);
}

}  // namespace
}  // namespace penstock
