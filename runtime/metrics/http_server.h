// A small HTTP/1.1 server for people and scrapers that look at a job: GET and HEAD, whole answers, nothing
// from the client but its request line. One thread of its own, at low priority; everything a client can hold
// is bounded: connections, header bytes, and the time each step may take.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace penstock {

struct HttpAnswer {
  std::string content_type;
  std::string body;
};

struct HttpLimits {
  size_t connections = 64;  ///< one more, and the one that has been idle for longest is closed
  uint32_t header_bytes = 8192;
  std::chrono::milliseconds step{5000};  ///< to send a whole request, or to take a whole answer
};

class HttpServer {
 public:
  /// Answers a path without its query; nothing: 404. Called on the server's thread.
  using Handler = std::function<std::optional<HttpAnswer>(std::string_view path)>;

  /// Listens and serves until destroyed. Port 0: any free one. Throws UsageError when it cannot listen there.
  HttpServer(const std::string& host, uint16_t port, Handler handler, const HttpLimits& limits = {});
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// "127.0.0.1:9400", "[::1]:9400".
  std::string address() const;
  uint16_t port() const;

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace penstock
