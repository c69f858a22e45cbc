#include "runtime/requests/hdf5/columns.h"

#include <algorithm>

namespace penstock {
namespace {

constexpr size_t kChunkEntries = 16384;
constexpr size_t kTextEntries = 4096;
constexpr size_t kPendingTextBytes = size_t{4} << 20;
constexpr unsigned kDeflateLevel = 1;  // the higher ones are slower by far and gain a few percent

struct Types {
  Hdf5Id file;
  Hdf5Id memory;
};

Types types_of(hid_t file, hid_t memory) {
  return {{H5Tcopy(file), H5Tclose, "HDF5"}, {H5Tcopy(memory), H5Tclose, "HDF5"}};
}
Types types_of(int32_t) {
  return types_of(H5T_STD_I32LE, H5T_NATIVE_INT32);
}
Types types_of(int64_t) {
  return types_of(H5T_STD_I64LE, H5T_NATIVE_INT64);
}
Types types_of(float) {
  return types_of(H5T_IEEE_F32LE, H5T_NATIVE_FLOAT);
}
Types types_of(const ShortText& text) {
  Types types = types_of(H5T_C_S1, H5T_C_S1);
  for (const Hdf5Id* type : {&types.file, &types.memory}) {
    check_hdf5(H5Tset_size(type->get(), text.size()), "HDF5");
    check_hdf5(H5Tset_strpad(type->get(), H5T_STR_NULLPAD), "HDF5");
  }
  return types;
}

/// Without times, so that the same answers make the same file.
Hdf5Id creation_properties(const std::vector<hsize_t>& chunk, const std::string& name) {
  Hdf5Id properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, name);
  check_hdf5(H5Pset_obj_track_times(properties.get(), false), name);
  check_hdf5(H5Pset_chunk(properties.get(), static_cast<int>(chunk.size()), chunk.data()), name);
  return properties;
}

/// Makes room at the end for `count` entries and returns the selection of them.
Hdf5Id grow(const Hdf5Id& dataset, uint64_t written, uint64_t count, size_t width, bool table,
            const std::string& name) {
  const hsize_t size[] = {written + count, width};
  const hsize_t begin[] = {written, 0};
  const hsize_t block[] = {count, width};
  check_hdf5(H5Dset_extent(dataset.get(), size), name);
  Hdf5Id space(H5Dget_space(dataset.get()), H5Sclose, name);
  ensure(table || width == 1, "a column of width 1");
  check_hdf5(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, begin, nullptr, block, nullptr), name);
  return space;
}

[[noreturn]] void writing_failed(const std::string& name) {
  throw Error("HDF5 output, " + name + ": writing failed: " + hdf5_reason() +
              "; free some space and start the job again");
}

}  // namespace

template <class T>
Column<T>::Column(const Hdf5Id& group, const std::string& name, T fill, bool table)
    : group_(group.get()), name_(name), fill_(fill), table_(table) {
  if (!table_) create(1);
}

template <class T>
void Column<T>::create(size_t width) {
  const hsize_t none[] = {0, width};
  const hsize_t most[] = {H5S_UNLIMITED, H5S_UNLIMITED};
  const int dimensions = table_ ? 2 : 1;
  const Hdf5Id space(H5Screate_simple(dimensions, none, most), H5Sclose, name_);
  std::vector<hsize_t> chunk{std::max<size_t>(1, kChunkEntries / width)};
  if (table_) chunk.push_back(width);
  const Hdf5Id properties = creation_properties(chunk, name_);
  const Types types = types_of(fill_);
  check_hdf5(H5Pset_fill_value(properties.get(), types.memory.get(), &fill_), name_);
  check_hdf5(H5Pset_shuffle(properties.get()), name_);
  check_hdf5(H5Pset_deflate(properties.get(), kDeflateLevel), name_);
  dataset_ = Hdf5Id(H5Dcreate2(group_, name_.c_str(), types.file.get(), space.get(), H5P_DEFAULT,
                               properties.get(), H5P_DEFAULT),
                    H5Dclose, name_);
  width_ = width;
}

template <class T>
void Column<T>::append(T value) {
  pending_.push_back(value);
  if (pending_.size() >= kChunkEntries) flush();
}

template <class T>
void Column<T>::append_row(const std::vector<T>& row) {
  if (row.size() > width_ || !dataset_) widen(std::max<size_t>(1, row.size()));
  pending_.insert(pending_.end(), row.begin(), row.end());
  pending_.resize(pending_.size() + width_ - row.size(), fill_);
  if (pending_.size() >= kChunkEntries) flush();
}

template <class T>
void Column<T>::widen(size_t width) {
  if (!dataset_) return create(width);
  flush();
  width_ = width;
}

template <class T>
void Column<T>::fill_to(uint64_t length) {
  if (length <= this->length()) return;
  flush();
  written_ = length;  // the next write, or the last flush, makes room
  if (!dataset_) create(width_);
  const hsize_t size[] = {written_, width_};
  check_hdf5(H5Dset_extent(dataset_.get(), size), name_);
}

template <class T>
void Column<T>::flush() {
  if (pending_.empty()) return;
  const uint64_t count = pending_.size() / width_;
  const Hdf5Id space = grow(dataset_, written_, count, width_, table_, name_);
  const hsize_t size[] = {count, width_};
  const Hdf5Id memory(H5Screate_simple(table_ ? 2 : 1, size, nullptr), H5Sclose, name_);
  if (H5Dwrite(dataset_.get(), types_of(fill_).memory.get(), memory.get(), space.get(), H5P_DEFAULT,
               pending_.data()) < 0)
    writing_failed(name_);
  written_ += count;
  pending_.clear();
}

template class Column<int32_t>;
template class Column<int64_t>;
template class Column<float>;
template class Column<ShortText>;

TextColumn::TextColumn(const Hdf5Id& group, const std::string& name)
    : name_(name), type_(H5Tcopy(H5T_C_S1), H5Tclose, name) {
  check_hdf5(H5Tset_size(type_.get(), H5T_VARIABLE), name);
  check_hdf5(H5Tset_cset(type_.get(), H5T_CSET_UTF8), name);
  const hsize_t none = 0;
  const hsize_t most = H5S_UNLIMITED;
  const Hdf5Id space(H5Screate_simple(1, &none, &most), H5Sclose, name);
  const Hdf5Id properties = creation_properties({kTextEntries}, name);
  dataset_ = Hdf5Id(H5Dcreate2(group.get(), name.c_str(), type_.get(), space.get(), H5P_DEFAULT,
                               properties.get(), H5P_DEFAULT),
                    H5Dclose, name);
}

void TextColumn::append(std::string text) {
  // A zero ends a string in HDF5; the model may have made one.
  for (size_t at = text.find('\0'); at != std::string::npos; at = text.find('\0', at + 1))
    text.replace(at, 1, "\xEF\xBF\xBD");
  pending_bytes_ += text.size();
  pending_.push_back(std::move(text));
  if (pending_.size() >= kTextEntries || pending_bytes_ >= kPendingTextBytes) flush();
}

void TextColumn::flush() {
  if (pending_.empty()) return;
  std::vector<const char*> pointers;
  for (const std::string& text : pending_) pointers.push_back(text.c_str());
  const Hdf5Id space = grow(dataset_, written_, pending_.size(), 1, false, name_);
  const hsize_t size = pending_.size();
  const Hdf5Id memory(H5Screate_simple(1, &size, nullptr), H5Sclose, name_);
  if (H5Dwrite(dataset_.get(), type_.get(), memory.get(), space.get(), H5P_DEFAULT, pointers.data()) < 0)
    writing_failed(name_);
  written_ += pending_.size();
  pending_.clear();
  pending_bytes_ = 0;
}

}  // namespace penstock
