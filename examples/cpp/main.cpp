// Runs an exported YOLO26 model on pictures, with ExecuTorch's C++ runtime and nothing else.
//
//     yolo26 ARTIFACT PICTURE.ppm [PICTURE.ppm …]
//
// ARTIFACT is a folder of `yolo26-et export`. The pictures are binary PPM files (P6), already of the size of the model's
// input, and as many as its batch.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fs = std::filesystem;
using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::extension::make_tensor_ptr;

constexpr float kConfidence = 0.25f;  // less is not printed
constexpr long kTop = 5;              // classes printed of a classification

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The value of one of ExecuTorch's results, or a failure that says what did not work.
template <typename T>
T value(executorch::runtime::Result<T> result, const std::string& what) {
  if (!result.ok()) {
    throw Failure(what + ": " + executorch::runtime::to_string(result.error()));
  }
  return std::move(*result);
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) {
    throw Failure("cannot read " + path.string());
  }
  return text;
}

// The class names in a manifest. Quotes within a JSON string are escaped, so the words sought are found nowhere else.
std::map<int, std::string> class_names(const std::string& manifest) {
  const std::string start = "\"classes\": {";
  const auto found = manifest.find(start);
  std::vector<std::string> strings;  // an index and a name in turn
  auto at = found == std::string::npos ? manifest.size() : found + start.size();
  for (; at < manifest.size() && manifest[at] != '}'; ++at) {
    if (manifest[at] != '"') {
      continue;
    }
    std::string text;
    for (++at; at < manifest.size() && manifest[at] != '"'; ++at) {
      at += manifest[at] == '\\';
      text += manifest[std::min(at, manifest.size() - 1)];
    }
    strings.push_back(text);
  }
  if (at >= manifest.size() || strings.size() % 2 != 0) {
    throw Failure("the manifest names no classes");
  }
  std::map<int, std::string> names;
  for (size_t pair = 0; pair < strings.size(); pair += 2) {
    names[std::atoi(strings[pair].c_str())] = strings[pair + 1];
  }
  return names;
}

struct Picture {
  long width, height;
  std::vector<uint8_t> rgb;  // height × width × 3
};

Picture read_ppm(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  file >> kind;
  long numbers[3] = {};  // width, height, greatest value
  for (long& number : numbers) {
    while (file >> std::ws && file.peek() == '#') {
      file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    file >> number;
  }
  const auto [width, height, greatest] = numbers;
  if (!file || kind != "P6" || greatest != 255 || width < 1 || height < 1 || width > 8192 || height > 8192) {
    throw Failure(path.string() + " is no binary PPM picture of 8 bits a channel, up to 8192 × 8192 pixels");
  }
  file.get();  // one white space ends the header
  Picture picture{width, height, std::vector<uint8_t>(width * height * 3)};
  if (!file.read(reinterpret_cast<char*>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size()))) {
    throw Failure(path.string() + " is cut off");
  }
  return picture;
}

// The model's input: uint8 NHWC, or float32 NCHW in 0..1.
TensorPtr to_input(const std::vector<Picture>& pictures, const executorch::runtime::TensorInfo& info) {
  const auto sizes = info.sizes();
  const std::vector<SizesType> shape(sizes.begin(), sizes.end());
  const bool bytes = info.scalar_type() == ScalarType::Byte;
  const long batch = shape.at(0), height = shape.at(bytes ? 1 : 2), width = shape.at(bytes ? 2 : 3);
  if (static_cast<long>(pictures.size()) != batch) {
    throw Failure("the model takes a batch of " + std::to_string(batch) + ", number of pictures given: " +
                  std::to_string(pictures.size()));
  }
  std::vector<uint8_t> nhwc;
  for (const Picture& picture : pictures) {
    if (picture.width != width || picture.height != height) {
      throw Failure("the model takes pictures of " + std::to_string(width) + " × " + std::to_string(height) +
                    " pixels, given " + std::to_string(picture.width) + " × " + std::to_string(picture.height));
    }
    nhwc.insert(nhwc.end(), picture.rgb.begin(), picture.rgb.end());
  }
  if (bytes) {
    return make_tensor_ptr(shape, std::move(nhwc));
  }
  const long pixels = height * width;
  std::vector<float> nchw(nhwc.size());
  for (long image = 0; image < batch; ++image) {
    for (long pixel = 0; pixel < pixels; ++pixel) {
      for (long channel = 0; channel < 3; ++channel) {
        nchw[(image * 3 + channel) * pixels + pixel] = nhwc[(image * pixels + pixel) * 3 + channel] / 255.0f;
      }
    }
  }
  return make_tensor_ptr(shape, std::move(nchw));
}

// One row per object: x, y, w, h, for rotated boxes the angle, confidence and class.
void print_detections(const float* rows, long count, long columns, const std::map<int, std::string>& names) {
  std::printf("%9s%9s%9s%9s%s%12s%7s  name\n", "x", "y", "w", "h", columns == 7 ? "    angle" : "", "confidence",
              "class");
  for (const float* row = rows; row < rows + count * columns; row += columns) {
    const float confidence = row[columns - 2];
    const int index = static_cast<int>(row[columns - 1]);
    if (confidence < kConfidence) {
      break;  // the rows come sorted
    }
    std::printf("%9.2f%9.2f%9.2f%9.2f", row[0], row[1], row[2], row[3]);
    if (columns == 7) {
      std::printf("%9.4f", row[4]);
    }
    const auto name = names.find(index);
    std::printf("%12.4f%7d  %s\n", confidence, index, name == names.end() ? "?" : name->second.c_str());
  }
}

void print_classes(const float* probabilities, long count, const std::map<int, std::string>& names) {
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + std::min(kTop, count);
  std::partial_sort(order.begin(), end, order.end(),
                    [&](int a, int b) { return probabilities[a] > probabilities[b]; });
  std::printf("%12s%7s  name\n", "probability", "class");
  for (auto index = order.begin(); index != end; ++index) {
    const auto name = names.find(*index);
    std::printf("%12.4f%7d  %s\n", probabilities[*index], *index, name == names.end() ? "?" : name->second.c_str());
  }
}

void run(const fs::path& artifact, const std::vector<fs::path>& paths) {
  const std::string manifest = read_file(artifact / "manifest.json");
  if (manifest.find("\"outputs\": \"ultralytics\"") != std::string::npos ||
      manifest.find("\"io\": \"device\"") != std::string::npos) {
    throw Failure("this program reads artifacts made with --outputs named and --io host");
  }
  const auto names = class_names(manifest);
  std::vector<Picture> pictures;
  for (const fs::path& path : paths) {
    pictures.push_back(read_ppm(path));
  }

  // A CUDA artifact's weights are a file of their own; without it the program cannot find them.
  std::vector<std::string> data_files;
  if (const fs::path weights = artifact / "aoti_cuda_blob.ptd"; fs::exists(weights)) {
    data_files.push_back(weights.string());
  }
  Module module((artifact / "model.pte").string(), data_files);
  const auto meta = value(module.method_meta("forward"), "cannot load the program");
  const TensorPtr input = to_input(pictures, value(meta.input_tensor_meta(0), "the program takes no tensor"));
  const auto outputs = value(module.forward(input), "cannot run the program");

  // What else a model gives (masks and their coefficients, keypoints) has a row for each row of the detections;
  // only the mask prototypes belong to the image as a whole.
  const Tensor output = outputs.at(0).toTensor();
  if (output.scalar_type() != ScalarType::Float || output.dim() > 3) {
    throw Failure("this program prints boxes and classes, and the model gives a map of the picture");
  }
  const long each = output.numel() / output.size(0);
  for (size_t image = 0; image < paths.size(); ++image) {
    const float* data = output.const_data_ptr<float>() + image * each;
    std::printf("%s\n", paths[image].c_str());
    if (output.dim() == 3) {
      print_detections(data, output.size(1), output.size(2), names);
    } else {
      print_classes(data, each, names);
    }
  }
}

int main(int count, char** words) {
  if (count < 3) {
    std::cerr << "usage: yolo26 ARTIFACT PICTURE.ppm [PICTURE.ppm …]\n";
    return 2;
  }
  try {
    run(words[1], {words + 2, words + count});
  } catch (const std::exception& error) {
    std::cerr << "yolo26: error: " << error.what() << "\n";
    return 1;
  }
}
