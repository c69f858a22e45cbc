// `penstock quantize`: a copy of a checkpoint whose layers' matrices are in FP8 with a scale for each block
// of 128 x 128, in the form in which DeepSeek-V3 is published.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "launch/commands.h"
#include "runtime/base/error.h"
#include "runtime/base/json_file.h"
#include "runtime/model/config.h"
#include "runtime/model/convert.h"
#include "runtime/model/safetensors.h"
#include "runtime/model/safetensors_writer.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Entry = SafetensorsFile::Entry;

constexpr Fp8Blocks kBlocks{};
constexpr const char* kIndex = "model.safetensors.index.json";

struct Totals {
  uint64_t bytes_before = 0;
  uint64_t bytes_after = 0;
  int64_t quantized = 0;
  double square_error = 0;
  double square = 0;
};

DType dtype_of(const std::string& name) {
  return name == "F32" ? DType::f32 : name == "BF16" ? DType::bf16 : name == "F16" ? DType::f16 : DType::i32;
}

/// Projections of attention and MLPs; not the gate of experts, whose choice a rounding would change.
bool is_quantized(const std::string& name, const Entry& entry) {
  const bool projection = name.ends_with("_proj.weight") || name.ends_with("_with_mqa.weight");
  return projection && entry.shape.size() == 2 && dtype_of(entry.dtype) != DType::i32;
}

void write_quantized(SafetensorsWriter& writer, const SafetensorsFile& file, const Entry& entry,
                     Totals& totals) {
  std::vector<uint32_t> raw(entry.bytes / 4 + 1);  // words, so that floats are aligned
  file.read(entry.offset, raw.data(), entry.bytes);
  const int64_t rows = entry.shape[0];
  const int64_t columns = entry.shape[1];
  std::vector<float> weight(static_cast<size_t>(rows * columns));
  convert(weight.data(), DType::f32, {raw.data(), dtype_of(entry.dtype), {rows, columns}});
  const Fp8Weight fp8 = quantize_blocks(weight, rows, columns, kBlocks);
  writer.write({reinterpret_cast<const char*>(fp8.values.data()), fp8.values.size()});
  writer.write({reinterpret_cast<const char*>(fp8.scales.data()), fp8.scales.size() * sizeof(float)});
  const int64_t across = blocks_over(columns, kBlocks.columns);
  for (int64_t i = 0; i < rows * columns; ++i) {
    const auto at = static_cast<size_t>(i);
    const auto block =
        static_cast<size_t>(i / columns / kBlocks.rows * across + i % columns / kBlocks.columns);
    const double error = static_cast<double>(weight[at]) -
                         static_cast<double>(f32_from_e4m3(fp8.values[at]) * fp8.scales[block]);
    totals.square_error += error * error;
    totals.square += static_cast<double>(weight[at]) * static_cast<double>(weight[at]);
  }
  ++totals.quantized;
}

void copy_tensor(SafetensorsWriter& writer, const SafetensorsFile& file, const Entry& entry) {
  std::vector<char> piece(size_t{4} << 20);
  for (uint64_t done = 0; done < entry.bytes;) {
    const auto here = std::min<uint64_t>(piece.size(), entry.bytes - done);
    file.read(entry.offset + done, piece.data(), here);
    writer.write({piece.data(), here});
    done += here;
  }
}

/// Adds the tensors written to `weight_map`.
void quantize_file(const fs::path& from, const fs::path& to, Json& weight_map, Totals& totals) {
  const SafetensorsFile file(from);
  std::vector<std::pair<std::string, Entry>> entries(file.entries().begin(), file.entries().end());
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.second.offset < b.second.offset; });
  std::vector<SafetensorsWriter::Planned> planned;
  for (const auto& [name, entry] : entries) {
    totals.bytes_before += entry.bytes;
    if (!is_quantized(name, entry)) {
      planned.push_back({name, entry.dtype, entry.shape, entry.bytes});
      continue;
    }
    const int64_t down = blocks_over(entry.shape[0], kBlocks.rows);
    const int64_t across = blocks_over(entry.shape[1], kBlocks.columns);
    planned.push_back({name, "F8_E4M3", entry.shape, static_cast<uint64_t>(entry.shape[0] * entry.shape[1])});
    planned.push_back(
        {name + "_scale_inv", "F32", {down, across}, static_cast<uint64_t>(down * across) * sizeof(float)});
  }
  SafetensorsWriter writer(to, planned);
  for (const auto& p : planned) {
    weight_map[p.name] = to.filename().string();
    totals.bytes_after += p.bytes;
  }
  for (const auto& [name, entry] : entries)
    if (is_quantized(name, entry))
      write_quantized(writer, file, entry, totals);
    else
      copy_tensor(writer, file, entry);
  writer.finish();
}

std::set<std::string> weight_files(const fs::path& model) {
  if (fs::exists(model / "model.safetensors")) return {"model.safetensors"};
  std::set<std::string> files;
  const nlohmann::json index = read_json_file(model / kIndex);
  if (!index.contains("weight_map") || !index["weight_map"].is_object())
    throw UsageError((model / kIndex).string() + ": expected a weight_map from tensor names to file names");
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string() || fs::path(file.get<std::string>()).filename() != file.get<std::string>())
      throw UsageError((model / kIndex).string() + ": " + name +
                       ": expected the name of a file beside the index, found " + file.dump());
    files.insert(file.get<std::string>());
  }
  return files;
}

void write_json(const fs::path& path, const Json& json) {
  std::ofstream file(path);
  file << json.dump(2) << '\n';
  if (!file.flush()) throw Error(path.string() + ": writing failed; is the disk full?");
}

int quantize(const fs::path& model, const fs::path& output) {
  if (load_model_config(model).fp8)
    throw UsageError("--model " + model.string() +
                     ": expected a checkpoint in float32, bfloat16 or float16, "
                     "found one in FP8 already");
  if (fs::exists(output) && !(fs::is_directory(output) && fs::is_empty(output)))
    throw UsageError("--output " + output.string() + ": expected no such folder, or an empty one");
  const std::set<std::string> files = weight_files(model);
  fs::create_directories(output);
  Totals totals;
  Json weight_map = Json::object();
  for (const std::string& file : files) quantize_file(model / file, output / file, weight_map, totals);
  if (!files.contains("model.safetensors"))
    write_json(output / kIndex,
               {{"metadata", {{"total_size", totals.bytes_after}}}, {"weight_map", weight_map}});
  Json config = Json(read_json_file(model / "config.json"));
  config["quantization_config"] = {{"activation_scheme", "dynamic"},
                                   {"fmt", "e4m3"},
                                   {"quant_method", "fp8"},
                                   {"weight_block_size", {kBlocks.rows, kBlocks.columns}}};
  for (const fs::directory_entry& entry : fs::directory_iterator(model)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && !name.ends_with(".safetensors") && name != kIndex && name != "config.json")
      fs::copy_file(entry.path(), output / name);
  }
  write_json(output / "config.json", config);  // last: without it the folder is no model
  std::printf(
      "%lld matrices in FP8, %.1f MiB became %.1f MiB; root mean square error %.3f %% of the weights'\n",
      static_cast<long long>(totals.quantized), static_cast<double>(totals.bytes_before) / (1 << 20),
      static_cast<double>(totals.bytes_after) / (1 << 20),
      totals.square > 0 ? 100 * std::sqrt(totals.square_error / totals.square) : 0);
  std::printf("what that does to answers: penstock validate --model %s --reference %s --tokens FILE\n",
              output.c_str(), model.c_str());
  return 0;
}

}  // namespace

void add_quantize(CLI::App& app, Command& chosen) {
  CLI::App* sub = app.add_subcommand("quantize", "Make a copy of a checkpoint with weights in FP8");
  struct Flags {
    fs::path model, output;
    std::string format = "fp8-block";
  };
  auto flags = std::make_shared<Flags>();
  sub->add_option("--model,-m", flags->model, "Folder with config.json and safetensors")->required();
  sub->add_option("--output,-o", flags->output, "Folder to make")->required();
  sub->add_option("--format", flags->format, "fp8-block: E4M3 with a scale for each 128 x 128 weights")
      ->check(CLI::IsMember({"fp8-block"}))
      ->capture_default_str();
  sub->callback([flags, &chosen] { chosen = [flags] { return quantize(flags->model, flags->output); }; });
}

}  // namespace penstock
