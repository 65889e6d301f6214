// One decision of an exported policy with onnxruntime's C++ API.
//   c++ -std=c++17 -I INCLUDE decide.cpp -L LIB -lonnxruntime -o decide
//   ./decide policy.onnx 0.1 0.2 ...      prints the action for one observation, given as numbers
#include <onnxruntime_cxx_api.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 2) return std::cerr << "usage: decide policy.onnx NUMBERS\n", 2;
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "policy");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, argv[1], options);
  Ort::AllocatorWithDefaultOptions allocator;
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

  // Inputs: the observation first, then random numbers; their names begin with their law, normal or uniform.
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  std::vector<std::string> names;
  std::vector<std::vector<float>> numbers;
  std::vector<Ort::Value> tensors;
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    auto shape = session.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
    bool is_normal = names[i].rfind("normal", 0) == 0;
    if (i > 0 && !is_normal && names[i].rfind("uniform", 0) != 0)
      return std::cerr << "this policy has a memory (" << names[i] << "): hand its next_ outputs back in at each step\n", 2;
    shape[0] = 1;  // one decision, also where the file takes any number of them
    size_t count = 1;
    for (auto size : shape) count *= static_cast<size_t>(size);
    auto& values = numbers.emplace_back(count);
    if (i == 0 && count != static_cast<size_t>(argc - 2))
      return std::cerr << "this policy takes " << count << " numbers; got " << argc - 2 << "\n", 2;
    for (size_t k = 0; k < count; ++k)
      values[k] = i == 0 ? std::strtof(argv[2 + k], nullptr) : is_normal ? normal(random) : uniform(random);
    tensors.push_back(Ort::Value::CreateTensor<float>(memory, values.data(), count, shape.data(), shape.size()));
  }

  std::vector<const char*> inputs;
  for (auto& name : names) inputs.push_back(name.c_str());
  const char* outputs[] = {"action"};
  auto result = session.Run(Ort::RunOptions{}, inputs.data(), tensors.data(), tensors.size(), outputs, 1);
  const float* action = result[0].GetTensorData<float>();
  size_t width = result[0].GetTensorTypeAndShapeInfo().GetElementCount();
  for (size_t k = 0; k < width; ++k) std::cout << action[k] << (k + 1 < width ? ' ' : '\n');
}
