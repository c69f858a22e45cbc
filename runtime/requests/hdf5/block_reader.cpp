#include "runtime/requests/hdf5/block_reader.h"

#include <new>

namespace penstock {
namespace {

/// Where HDF5 puts strings of variable length while it reads them: no more than was allowed, and all of it is
/// given back at once.
class Arena {
 public:
  explicit Arena(size_t most_bytes) : left_(most_bytes) {}
  bool refused() const { return refused_; }

  static void* allocate(size_t bytes, void* arena) noexcept {
    auto& self = *static_cast<Arena*>(arena);
    if (bytes > self.left_) {
      self.refused_ = true;
      return nullptr;
    }
    try {
      self.pieces_.push_back(std::make_unique<char[]>(bytes));
    } catch (const std::bad_alloc&) {
      self.refused_ = true;
      return nullptr;
    }
    self.left_ -= bytes;
    return self.pieces_.back().get();
  }
  static void release(void*, void*) noexcept {}

 private:
  size_t left_;
  bool refused_ = false;
  std::vector<std::unique_ptr<char[]>> pieces_;
};

Hdf5Id memory_space(uint64_t count, const std::string& name) {
  const hsize_t size = count;
  return {H5Screate_simple(1, &size, nullptr), H5Sclose, name};
}

Hdf5Id type_of(const Hdf5Id& dataset, const std::string& name) {
  return {H5Dget_type(dataset.get()), H5Tclose, name};
}

}  // namespace

Hdf5Id open_hdf5(const std::filesystem::path& path) {
  Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "HDF5");
  H5Pset_file_locking(access.get(), false, true);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (file < 0)
    throw UsageError("--input-file " + path.string() + ": cannot be opened as HDF5: " + hdf5_reason());
  return {file, H5Fclose, path.string()};
}

Hdf5Id select_entries(const Hdf5Id& dataset, uint64_t begin, uint64_t count, const std::string& name) {
  Hdf5Id space(H5Dget_space(dataset.get()), H5Sclose, name);
  const hsize_t start = begin;
  const hsize_t size = count;
  check_hdf5(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &start, nullptr, &size, nullptr), name);
  return space;
}

uint64_t entries_of(const Hdf5Id& dataset, const std::string& name) {
  const Hdf5Id space(H5Dget_space(dataset.get()), H5Sclose, name);
  const int dimensions = H5Sget_simple_extent_ndims(space.get());
  if (dimensions != 1)
    throw UsageError(name + ": expected a data set of one dimension, found " + std::to_string(dimensions));
  hsize_t size = 0;
  check_hdf5(H5Sget_simple_extent_dims(space.get(), &size, nullptr), name);
  return size;
}

IntegerReader::IntegerReader(Hdf5Id dataset, std::string name)
    : dataset_(std::move(dataset)), name_(std::move(name)), size_(entries_of(dataset_, name_)) {
  if (H5Tget_class(type_of(dataset_, name_).get()) != H5T_INTEGER)
    throw UsageError(name_ + ": expected integers, found data of another type");
}

std::vector<int64_t> IntegerReader::read(uint64_t begin, uint64_t count) {
  ensure(begin <= size_ && count <= size_ - begin, "entries inside a data set");
  std::vector<int64_t> values(count);
  if (count > 0)
    check_hdf5(H5Dread(dataset_.get(), H5T_NATIVE_INT64, memory_space(count, name_).get(),
                       select_entries(dataset_, begin, count, name_).get(), H5P_DEFAULT, values.data()),
               name_ + ": reading failed");
  return values;
}

StringReader::StringReader(Hdf5Id dataset, std::string name)
    : dataset_(std::move(dataset)), name_(std::move(name)), size_(entries_of(dataset_, name_)) {
  const Hdf5Id stored = type_of(dataset_, name_);
  if (H5Tget_class(stored.get()) != H5T_STRING)
    throw UsageError(name_ + ": expected strings, found data of another type");
  const bool variable = check_hdf5(H5Tis_variable_str(stored.get()), name_) > 0;
  fixed_size_ = variable ? 0 : H5Tget_size(stored.get());
  type_ = Hdf5Id(H5Tcopy(H5T_C_S1), H5Tclose, name_);
  check_hdf5(H5Tset_size(type_.get(), variable ? H5T_VARIABLE : fixed_size_), name_);
  check_hdf5(H5Tset_cset(type_.get(), H5Tget_cset(stored.get())), name_);
  if (!variable) check_hdf5(H5Tset_strpad(type_.get(), H5Tget_strpad(stored.get())), name_);
}

bool StringReader::read(uint64_t begin, uint64_t count, size_t most_bytes,
                        std::vector<std::string>& strings) {
  ensure(begin <= size_ && count <= size_ - begin, "entries inside a data set");
  strings.clear();
  if (count == 0) return true;
  return fixed_size_ == 0 ? read_variable(begin, count, most_bytes, strings)
                          : read_fixed(begin, count, most_bytes, strings);
}

bool StringReader::read_variable(uint64_t begin, uint64_t count, size_t most_bytes,
                                 std::vector<std::string>& strings) {
  Arena arena(most_bytes);
  const Hdf5Id transfer(H5Pcreate(H5P_DATASET_XFER), H5Pclose, name_);
  check_hdf5(H5Pset_vlen_mem_manager(transfer.get(), Arena::allocate, &arena, Arena::release, &arena), name_);
  std::vector<const char*> pointers(count, nullptr);
  const herr_t result =
      H5Dread(dataset_.get(), type_.get(), memory_space(count, name_).get(),
              select_entries(dataset_, begin, count, name_).get(), transfer.get(), pointers.data());
  if (arena.refused()) return false;
  check_hdf5(result, name_ + ": reading failed");
  for (const char* text : pointers) strings.emplace_back(text == nullptr ? "" : text);
  return true;
}

bool StringReader::read_fixed(uint64_t begin, uint64_t count, size_t most_bytes,
                              std::vector<std::string>& strings) {
  if (fixed_size_ > most_bytes / count) return false;
  std::string bytes(count * fixed_size_, '\0');
  check_hdf5(H5Dread(dataset_.get(), type_.get(), memory_space(count, name_).get(),
                     select_entries(dataset_, begin, count, name_).get(), H5P_DEFAULT, bytes.data()),
             name_ + ": reading failed");
  const bool spaces = H5Tget_strpad(type_.get()) == H5T_STR_SPACEPAD;
  for (uint64_t i = 0; i < count; ++i) {
    const char* text = bytes.data() + i * fixed_size_;
    size_t length = 0;
    while (length < fixed_size_ && text[length] != '\0') ++length;
    while (spaces && length > 0 && text[length - 1] == ' ') --length;
    strings.emplace_back(text, length);
  }
  return true;
}

}  // namespace penstock
