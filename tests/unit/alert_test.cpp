// Alerts on their way to receivers that answer, refuse, or say nothing.
#include "runtime/metrics/alert.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "runtime/base/error.h"

namespace penstock {
namespace {

/// Listens on a free port of this host.
class Receiver {
 public:
  Receiver() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(socket_, reinterpret_cast<const sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(socket_, 4), 0);
    EXPECT_EQ(getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = std::to_string(ntohs(address.sin_port));
  }
  ~Receiver() { close(socket_); }
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;

  std::string port() const { return port_; }
  /// One request until its body ends with '}'.
  std::string take(const std::string& answer) const {
    const int client = accept(socket_, nullptr, nullptr);
    std::string request;
    char piece[1024];
    while (request.empty() || request.back() != '}') {
      const ssize_t n = recv(client, piece, sizeof piece, 0);
      if (n <= 0) break;
      request.append(piece, static_cast<size_t>(n));
    }
    ::send(client, answer.data(), answer.size(), MSG_NOSIGNAL);
    close(client);
    return request;
  }

 private:
  int socket_;
  std::string port_;
};

TEST(Alert, ArrivesAsAPostOfOneJsonObject) {
  const Receiver receiver;
  AlertSender sender(parse_alert_url("http://127.0.0.1:" + receiver.port() + "/hook?team=a"));
  sender.send(R"({"goal":"oom"})");
  const std::string request = receiver.take("HTTP/1.1 204 No Content\r\n\r\n");
  EXPECT_EQ(request.rfind("POST /hook?team=a HTTP/1.1\r\n", 0), 0u) << request;
  EXPECT_NE(request.find("Content-Type: application/json\r\n"), std::string::npos);
  EXPECT_NE(request.find("\r\n\r\n{\"goal\":\"oom\"}"), std::string::npos);
}

TEST(Alert, IsSentBeforeTheSenderEnds) {
  const Receiver receiver;
  std::string request;
  {
    AlertSender sender(parse_alert_url("http://127.0.0.1:" + receiver.port()));
    sender.send("{}");
    request = receiver.take("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  }
  EXPECT_NE(request.find("POST / HTTP/1.1"), std::string::npos);
}

TEST(Alert, HoldsNobodyUpWhenTheReceiverIsGoneOrSilent) {
  const Receiver silent;  // never accepts
  const auto begin = std::chrono::steady_clock::now();
  {
    AlertSender sender(parse_alert_url("http://127.0.0.1:" + silent.port()), std::chrono::seconds(1));
    AlertSender refused(parse_alert_url("http://127.0.0.1:1"));
    for (int i = 0; i < 1000; ++i) {
      sender.send("{}");
      refused.send("{}");
    }
  }
  // One after the other they would take a thousand seconds, or those that may wait at the end a minute.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

TEST(Alert, UrlsAreHostPortAndPath) {
  const AlertUrl plain = parse_alert_url("http://alerts");
  EXPECT_EQ(plain.host + " " + plain.port + " " + plain.target, "alerts 80 /");
  const AlertUrl six = parse_alert_url("http://[::1]:9093/api?x=1");
  EXPECT_EQ(six.host + " " + six.port + " " + six.target, "::1 9093 /api?x=1");
  for (const char* bad : {"", "alerts", "ftp://a", "https://a", "http://", "http://a:b/", "http://:80",
                          "http://a/\r\nX: y", "http://u@a"})
    EXPECT_THROW(parse_alert_url(bad), UsageError) << bad;
}

}  // namespace
}  // namespace penstock
