// Tells another program of something, as one JSON object in a POST. From a thread of its own: a receiver that
// is slow or gone holds nobody up, and what does not get through within its time is dropped with a warning.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

namespace penstock {

struct AlertUrl {
  std::string host;
  std::string port;
  std::string target;
};

/// "http://host[:port][/path]". Throws UsageError for anything else.
AlertUrl parse_alert_url(const std::string& url);

class AlertSender {
 public:
  /// `patience`: for one receiver to take one alert.
  explicit AlertSender(AlertUrl url, std::chrono::milliseconds patience = std::chrono::seconds(5));
  /// What is under way and the newest that waits get their time.
  ~AlertSender();
  AlertSender(const AlertSender&) = delete;
  AlertSender& operator=(const AlertSender&) = delete;

  /// Any thread; never waits.
  void send(std::string json);

 private:
  void send_until_stopped();
  void post(const std::string& json) const;

  const AlertUrl url_;
  const std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> waiting_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace penstock
