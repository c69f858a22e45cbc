#include "runtime/metrics/alert.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace penstock {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr size_t kMostWaiting = 64;

/// One POST as a chain of steps, each of which begins when the one before has succeeded.
class Post {
 public:
  Post(asio::io_context& io, const AlertUrl& url, const std::string& json, std::chrono::milliseconds patience)
      : resolver_(io),
        stream_(io),
        url_(url),
        patience_(patience),
        request_(http::verb::post, url.target, 11) {
    request_.set(http::field::host, url.host);
    request_.set(http::field::user_agent, "penstock");
    request_.set(http::field::content_type, "application/json");
    request_.body() = json;
    request_.prepare_payload();
    response_.body_limit(size_t{64} << 10);
  }

  void start() {
    stream_.expires_after(patience_);
    resolver_.async_resolve(url_.host, url_.port, [this](error_code error, const auto& found) {
      if (failed(error)) return;
      stream_.async_connect(found, [this](error_code refused, const auto&) {
        if (failed(refused)) return;
        http::async_write(stream_, request_, [this](error_code unsent, size_t) {
          if (failed(unsent)) return;
          http::async_read(stream_, buffer_, response_,
                           [this](error_code unread, size_t) { failed(unread); });
        });
      });
    });
  }

  /// Empty when the receiver has taken it.
  std::string trouble() const {
    if (error_) return error_.message();
    if (!response_.is_done()) return "no answer";
    const unsigned status = response_.get().result_int();
    return status / 100 == 2 ? "" : "status " + std::to_string(status);
  }

 private:
  bool failed(error_code error) {
    error_ = error;
    return static_cast<bool>(error);
  }

  asio::ip::tcp::resolver resolver_;
  beast::tcp_stream stream_;
  const AlertUrl& url_;
  const std::chrono::milliseconds patience_;
  http::request<http::string_body> request_;
  http::response_parser<http::string_body> response_;
  beast::flat_buffer buffer_{size_t{128} << 10};
  error_code error_;
};

}  // namespace

AlertUrl parse_alert_url(const std::string& url) {
  const std::string scheme = "http://";
  const auto refuse = [&](const char* why) {
    return UsageError("--alert-url " + url + ": expected http://HOST[:PORT][/PATH], found " + why);
  };
  if (url.rfind("https://", 0) == 0)
    throw refuse("https; let a relay on this host (Alertmanager, a proxy) speak TLS");
  if (url.rfind(scheme, 0) != 0) throw refuse("another scheme");
  if (url.find_first_of(" \t\r\n@#") != std::string::npos) throw refuse("a blank, @ or # in it");
  const size_t slash = std::min(url.find('/', scheme.size()), url.size());
  const std::string authority = url.substr(scheme.size(), slash - scheme.size());
  AlertUrl parsed{authority, "80", slash == url.size() ? "/" : url.substr(slash)};
  // In [::1]:80 only the last colon begins a port.
  const size_t bracket = authority.rfind(']');
  const size_t colon = authority.rfind(':');
  if (colon != std::string::npos && (bracket == std::string::npos || colon > bracket)) {
    parsed.host = authority.substr(0, colon);
    parsed.port = authority.substr(colon + 1);
    if (parsed.port.empty() || parsed.port.find_first_not_of("0123456789") != std::string::npos ||
        parsed.port.size() > 5)
      throw refuse("a port that is no number");
  }
  if (parsed.host.size() > 2 && parsed.host.front() == '[')
    parsed.host = parsed.host.substr(1, parsed.host.size() - 2);
  if (parsed.host.empty()) throw refuse("no host");
  return parsed;
}

AlertSender::AlertSender(AlertUrl url, std::chrono::milliseconds patience)
    : url_(std::move(url)), patience_(patience), thread_([this] { send_until_stopped(); }) {}

AlertSender::~AlertSender() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    // Each may take all its time: only the newest can be waited for.
    while (waiting_.size() > 1) waiting_.pop_front();
  }
  changed_.notify_all();
  thread_.join();
}

void AlertSender::send(std::string json) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= kMostWaiting) waiting_.pop_front();
    waiting_.push_back(std::move(json));
  }
  changed_.notify_all();
}

void AlertSender::send_until_stopped() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    const std::string json = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    post(json);
    lock.lock();
  }
}

void AlertSender::post(const std::string& json) const {
  std::string trouble;
  try {
    asio::io_context io{1};
    Post one(io, url_, json, patience_);
    one.start();
    io.run_for(2 * patience_);  // looking up a name has no deadline of its own
    trouble = one.trouble();
  } catch (const std::exception& e) {
    trouble = e.what();
  }
  if (!trouble.empty())
    log::warning("--alert-url: an alert for " + url_.host + ":" + url_.port +
                 " did not get through: " + trouble);
}

}  // namespace penstock
