#include "runtime/comm/arrival.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>

namespace penstock {
namespace {

struct Address {
  sockaddr_un name{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
};

Address address_of(const std::string& job, int rank) {
  Address address;
  address.name.sun_family = AF_UNIX;
  // A name that starts with a zero byte is abstract.
  const std::string text = "penstock-" + std::to_string(rank) + "-" + job;
  const size_t length = std::min(text.size(), sizeof(address.name.sun_path) - 1);
  std::copy_n(text.data(), length, address.name.sun_path + 1);
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
  return address;
}

int open_socket() {
  return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

}  // namespace

// A mark that cannot be made only makes a later message less precise, so failures are not errors here.
ArrivalMark::ArrivalMark(const std::string& job, int rank) : job_(job), rank_(rank), socket_(open_socket()) {
  const Address address = address_of(job, rank);
  if (socket_ >= 0 && bind(socket_, address.get(), address.length) != 0) {
    close(socket_);
    socket_ = -1;
  }
}

ArrivalMark::~ArrivalMark() {
  if (socket_ >= 0) close(socket_);
}

bool ArrivalMark::seen(int rank) const {
  const int probe = open_socket();
  if (probe < 0) return false;
  const Address address = address_of(job_, rank);
  const bool there = connect(probe, address.get(), address.length) == 0;
  close(probe);
  return there;
}

bool ArrivalMark::speak_for_all(int size) const {
  char heard = 0;
  if (recv(socket_, &heard, 1, MSG_DONTWAIT) == 1) return false;
  for (int r = 0; r < size; ++r) {
    const Address address = address_of(job_, r);
    if (r != rank_) sendto(socket_, "!", 1, MSG_DONTWAIT, address.get(), address.length);
  }
  return true;
}

}  // namespace penstock
