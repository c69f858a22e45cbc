// The HDF5 library's C interface with owners and exceptions. Inside runtime/requests/hdf5/ only. The library
// is told to be silent on a thread by QuietHdf5; its innermost reason is put into the exception instead.
#pragma once

#include <hdf5.h>

#include <string>
#include <utility>

#include "runtime/base/error.h"

namespace penstock {

/// While it lives, HDF5 prints nothing from this thread.
class QuietHdf5 {
 public:
  QuietHdf5() {
    // Before the library's first use: at the program's end it would try once more to write what a full disk
    // did not take, and crash. Every file of ours is closed by its owner.
    H5dont_atexit();
    H5Eget_auto2(H5E_DEFAULT, &printer_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~QuietHdf5() { H5Eset_auto2(H5E_DEFAULT, printer_, data_); }
  QuietHdf5(const QuietHdf5&) = delete;
  QuietHdf5& operator=(const QuietHdf5&) = delete;

 private:
  H5E_auto2_t printer_ = nullptr;
  void* data_ = nullptr;
};

/// What HDF5 says of its last failure on this thread: the innermost entry of its error stack.
inline std::string hdf5_reason() {
  std::string reason = "unknown reason";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* entry, void* text) -> herr_t {
        if (n == 0 && entry->desc != nullptr) *static_cast<std::string*>(text) = entry->desc;
        return 0;
      },
      &reason);
  // "file write failed: time = ..., errno = 28, error message = 'No space left on device', buf = ..."
  const std::string mark = "error message = '";
  const size_t begin = reason.find(mark);
  if (begin == std::string::npos) return reason;
  const size_t message = begin + mark.size();
  return reason.substr(message, reason.find('\'', message) - message);
}

/// Throws Error "`what`: <reason>" when an HDF5 call has failed, else returns what it returned.
template <class Result>
Result check_hdf5(Result result, const std::string& what, Where where = Where::here()) {
  if (result < 0) throw Error(what + ": " + hdf5_reason(), ExitStatus::runtime_failure, where);
  return result;
}

/// An identifier that closes itself.
class Hdf5Id {
 public:
  using Close = herr_t (*)(hid_t);

  Hdf5Id() = default;
  /// Throws as check_hdf5 when `id` is none.
  Hdf5Id(hid_t id, Close closer, const std::string& what) : id_(check_hdf5(id, what)), close_(closer) {}
  ~Hdf5Id() {
    if (id_ >= 0) close_(id_);
  }
  Hdf5Id(Hdf5Id&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Id& operator=(Hdf5Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }
  /// Closes now, where failing matters. Throws as check_hdf5.
  void close(const std::string& what) { check_hdf5(close_(std::exchange(id_, -1)), what); }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

}  // namespace penstock
