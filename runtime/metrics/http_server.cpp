#include "runtime/metrics/http_server.h"

#include <sys/resource.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <list>
#include <sstream>
#include <thread>
#include <utility>

#include "runtime/base/error.h"

namespace penstock {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

// The job's threads come first: a scraper that never stops gets what they leave.
constexpr int kNiceness = 10;
constexpr std::chrono::milliseconds kAcceptPause{100};

class Session;
using Sessions = std::list<std::shared_ptr<Session>>;

/// What the connections share; touched only by the server's thread.
struct Shared {
  HttpServer::Handler handler;
  HttpLimits limits;
  bool only_here = false;  // listens on a loopback address
  Sessions open;           // the one that has been idle for longest first
};

/// Whether a Host header names this host's loopback, so that a page of somewhere else whose name a browser
/// was led to resolve to 127.0.0.1 reads nothing.
bool names_loopback(std::string_view host) {
  const size_t end = host.rfind(':');
  if (end != std::string_view::npos && host.find(']', end) == std::string_view::npos)
    host = host.substr(0, end);
  if (host.empty() || host == "localhost") return true;
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  error_code error;
  const asio::ip::address address = asio::ip::make_address(std::string(host), error);
  return !error && address.is_loopback();
}

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, Shared& shared) : stream_(std::move(socket)), shared_(shared) {}

  void start(Sessions::iterator self) {
    self_ = self;
    read();
  }
  void close() {
    if (std::exchange(closed_, true)) return;
    error_code ignored;
    stream_.socket().close(ignored);
    shared_.open.erase(self_);
  }

 private:
  using Request = http::request_parser<http::empty_body>;
  using Response = http::response<http::string_body>;

  void read() {
    shared_.open.splice(shared_.open.end(), shared_.open, self_);
    request_.emplace();
    request_->header_limit(shared_.limits.header_bytes);
    stream_.expires_after(shared_.limits.step);
    // The buffer holds what was read and not parsed; a header that does not fit ends the connection.
    http::async_read(stream_, buffer_, *request_,
                     [self = shared_from_this()](error_code error, size_t) { self->answer(error); });
  }

  void answer(error_code error) {
    if (closed_) return;
    if (error == http::error::header_limit || error == http::error::buffer_overflow)
      return refuse(http::status::request_header_fields_too_large, "the request's header is too long\n");
    if (error == http::error::unexpected_body)
      return refuse(http::status::bad_request, "a request here has no body\n");
    if (error && error.category() == make_error_code(http::error::bad_method).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message)
      return refuse(http::status::bad_request, "this is no HTTP request\n");
    if (error) return close();
    const auto& request = request_->get();
    const bool head = request.method() == http::verb::head;
    if (!head && request.method() != http::verb::get)
      return refuse(http::status::method_not_allowed, "only GET and HEAD\n");
    const auto host = request[http::field::host];
    if (shared_.only_here && !names_loopback({host.data(), host.size()}))
      return refuse(http::status::misdirected_request, "this server is for this host alone\n");
    const auto target = request.target();
    std::string_view path(target.data(), target.size());
    path = path.substr(0, path.find('?'));
    std::optional<HttpAnswer> found;
    try {
      found = shared_.handler(path);
    } catch (const std::exception& e) {
      return refuse(http::status::internal_server_error, std::string(e.what()) + "\n");
    }
    if (!found) return send(http::status::not_found, {"text/plain; charset=utf-8", "no such page\n"}, head);
    send(http::status::ok, std::move(*found), head);
  }

  /// The client cannot be understood any further: say why and hang up.
  void refuse(http::status status, std::string why) {
    keep_alive_ = false;
    send(status, {"text/plain; charset=utf-8", std::move(why)}, false);
  }

  void send(http::status status, HttpAnswer answer, bool head) {
    response_ = Response(status, 11);
    response_.set(http::field::server, "penstock");
    response_.set(http::field::content_type, answer.content_type);
    response_.set(http::field::cache_control, "no-store");
    response_.set("X-Content-Type-Options", "nosniff");
    response_.set("Content-Security-Policy",
                  "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src "
                  "'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    if (status == http::status::method_not_allowed) response_.set(http::field::allow, "GET, HEAD");
    const bool keep = keep_alive_ && request_->get().keep_alive();
    response_.keep_alive(keep);
    response_.content_length(answer.body.size());
    if (!head) response_.body() = std::move(answer.body);
    stream_.expires_after(shared_.limits.step);
    serializer_.emplace(response_);
    serializer_->split(head);
    const auto sent = [self = shared_from_this(), keep](error_code error, size_t) {
      if (self->closed_) return;
      if (error || !keep) return self->hang_up();
      self->read();
    };
    if (head)
      http::async_write_header(stream_, *serializer_, sent);
    else
      http::async_write(stream_, *serializer_, sent);
  }

  void hang_up() {
    // What the client still sends is not read: closing now could destroy the answer on its way. The end of
    // what we say goes first, and the client's deadline is the same as for everything else.
    error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    drain();
  }

  void drain() {
    if (drained_ > kMostDrained) return close();
    stream_.async_read_some(asio::buffer(scrap_),
                            [self = shared_from_this()](error_code error, size_t bytes) {
                              if (self->closed_) return;
                              self->drained_ += bytes;
                              if (error) return self->close();
                              self->drain();
                            });
  }

  static constexpr size_t kMostDrained = size_t{4} << 20;

  beast::tcp_stream stream_;
  Shared& shared_;
  Sessions::iterator self_;
  beast::flat_buffer buffer_{16384};
  std::optional<Request> request_;
  Response response_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
  std::array<char, 4096> scrap_;
  size_t drained_ = 0;
  bool keep_alive_ = true;
  bool closed_ = false;
};

}  // namespace

class HttpServer::Loop {
 public:
  Loop(const std::string& host, uint16_t port, Handler handler, const HttpLimits& limits)
      : shared_{std::move(handler), limits, false, {}}, acceptor_(io_), pause_(io_) {
    listen(host, port);
    accept();
    thread_ = std::thread([this] {
      setpriority(PRIO_PROCESS, 0, kNiceness);  // of this thread alone, on Linux
      io_.run();
    });
  }
  ~Loop() {
    io_.stop();
    thread_.join();
    shared_.open.clear();
  }

  tcp::endpoint endpoint() const { return acceptor_.local_endpoint(); }

 private:
  void listen(const std::string& host, uint16_t port) {
    try {
      tcp::resolver resolver(io_);
      const auto found = resolver.resolve(host, std::to_string(port), tcp::resolver::passive);
      const tcp::endpoint endpoint = *found.begin();
      acceptor_.open(endpoint.protocol());
      acceptor_.set_option(tcp::acceptor::reuse_address(true));
      acceptor_.bind(endpoint);
      acceptor_.listen();
      shared_.only_here = endpoint.address().is_loopback();
    } catch (const boost::system::system_error& e) {
      throw UsageError("--metrics-host " + host + " --port " + std::to_string(port) +
                       ": expected an address of this host with a free port, found: " + e.code().message());
    }
  }

  void accept() {
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error) {  // out of file descriptors, most likely: others may close some
        pause_.expires_after(kAcceptPause);
        pause_.async_wait([this](error_code stopped) {
          if (!stopped) accept();
        });
        return;
      }
      if (shared_.open.size() >= shared_.limits.connections) shared_.open.front()->close();
      shared_.open.push_back(std::make_shared<Session>(std::move(socket), shared_));
      const auto self = std::prev(shared_.open.end());
      (*self)->start(self);
      accept();
    });
  }

  // A session that is destroyed with the context still reaches for what they share.
  Shared shared_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  std::thread thread_;
};

HttpServer::HttpServer(const std::string& host, uint16_t port, Handler handler, const HttpLimits& limits)
    : loop_(std::make_unique<Loop>(host, port, std::move(handler), limits)) {}

HttpServer::~HttpServer() = default;

std::string HttpServer::address() const {
  std::ostringstream text;
  text << loop_->endpoint();
  return text.str();
}

uint16_t HttpServer::port() const {
  return loop_->endpoint().port();
}

}  // namespace penstock
