// Learn five stripe patterns from one image each, and name five others.
//
//   g++ -std=c++17 learn.cpp -lonnxruntime -o learn && ./learn learns.onnx
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <vector>

using Shape = std::vector<int64_t>;

// Images of all classes, their stripes moved by so many pixels; numbers in 0..1.
std::vector<float> stripes(const Shape& shape, int64_t shift) {
  std::vector<float> x;
  for (int64_t ways = shape[0], k = 0; k < ways; k++)
    for (int64_t c = 0; c < shape[1]; c++)
      for (int64_t i = 0; i < shape[2]; i++)
        for (int64_t j = 0; j < shape[3]; j++)
          x.push_back((i * (k + 1) + (j + shift) * (ways - k)) / 8 % 2);
  return x;
}

template <class Number>
Ort::Value tensor(std::vector<Number>& numbers, const Shape& shape) {
  static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  return Ort::Value::CreateTensor<Number>(memory, numbers.data(), numbers.size(), shape.data(),
                                          shape.size());
}

int main(int, char** arguments) {
  Ort::Env environment;
  Ort::Session session(environment, arguments[1], Ort::SessionOptions{});
  const auto takes = session.GetInputTypeInfo(0), gives = session.GetOutputTypeInfo(0);
  Shape shape = takes.GetTensorTypeAndShapeInfo().GetShape();  // S, channels, height, width
  const int64_t ways = gives.GetTensorTypeAndShapeInfo().GetShape()[1];
  shape[0] = ways;

  auto support_x = stripes(shape, 0), query_x = stripes(shape, 1);
  std::vector<int64_t> support_y;
  for (int64_t k = 0; k < ways; k++) support_y.push_back(k);

  const char* names[] = {"support_x", "support_y", "query_x"};
  const char* wanted[] = {"logits"};
  std::vector<Ort::Value> inputs;
  inputs.push_back(tensor(support_x, shape));
  inputs.push_back(tensor(support_y, {ways}));
  inputs.push_back(tensor(query_x, shape));
  const auto found = session.Run(Ort::RunOptions{}, names, inputs.data(), 3, wanted, 1);

  const float* logits = found[0].GetTensorData<float>();
  for (int64_t q = 0; q < ways; q++, logits += ways) {
    std::printf("%d", int(std::max_element(logits, logits + ways) - logits));
    for (int64_t k = 0; k < ways; k++) std::printf(" %.3f", logits[k]);
    std::printf("\n");
  }
}
