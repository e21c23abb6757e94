#ifdef KIN_HAVE_SENTENCEPIECE

#include "runtime/sentencepiece_shim.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

namespace sentencepiece {
namespace logging {
/* Exported by the library, but in none of its installed headers. */
void SetMinLogLevel(int level);
} // namespace logging
} // namespace sentencepiece

namespace {

enum { FATAL_ONLY = 3 };

int report(char *error, const char *message) {
    std::snprintf(error, KIN_SHIM_ERROR, "%s", message);
    return 1;
}

/* Runs `body`, which returns a sentencepiece status, and turns whatever it throws into a code. */
template <typename Body> int guarded(char *error, Body body) {
    try {
        sentencepiece::logging::SetMinLogLevel(FATAL_ONLY);
        const sentencepiece::util::Status status = body();
        return status.ok() ? 0 : report(error, status.error_message());
    } catch (const std::bad_alloc &) {
        return 2;
    } catch (const std::exception &problem) {
        return report(error, problem.what());
    } catch (...) {
        return report(error, "unknown exception");
    }
}

class List : public sentencepiece::SentenceIterator {
  public:
    List(const char *const *sentences, size_t count) : sentences_(sentences), count_(count) {
        load();
    }
    bool done() const override {
        return at_ == count_;
    }
    void Next() override {
        ++at_;
        load();
    }
    const std::string &value() const override {
        return value_;
    }
    sentencepiece::util::Status status() const override {
        return sentencepiece::util::Status();
    }

  private:
    void load() {
        if (at_ < count_) value_ = sentences_[at_];
    }
    const char *const *sentences_;
    size_t count_;
    size_t at_ = 0;
    std::string value_;
};

} // namespace

extern "C" int kin_shim_load(const void *data, size_t size, void **out_processor, char *error) {
    *out_processor = nullptr;
    return guarded(error, [&] {
        std::unique_ptr<sentencepiece::SentencePieceProcessor> processor(
            new sentencepiece::SentencePieceProcessor);
        const auto status = processor->LoadFromSerializedProto(
            absl::string_view(static_cast<const char *>(data), size));
        if (status.ok()) *out_processor = processor.release();
        return status;
    });
}

extern "C" void kin_shim_free(void *processor) {
    delete static_cast<sentencepiece::SentencePieceProcessor *>(processor);
}

extern "C" int kin_shim_encode(const void *processor, const char *text, size_t size,
                               kin_shim_emit emit, void *user, char *error) {
    return guarded(error, [&] {
        std::vector<int> ids;
        const auto *const model =
            static_cast<const sentencepiece::SentencePieceProcessor *>(processor);
        const auto status = model->Encode(absl::string_view(text, size), &ids);
        if (status.ok()) emit(user, ids.data(), ids.size());
        return status;
    });
}

extern "C" int kin_shim_is_byte(const void *processor, int id) {
    return static_cast<const sentencepiece::SentencePieceProcessor *>(processor)->IsByte(id);
}

extern "C" int kin_shim_train(const char *const *sentences, size_t count, int vocab_size,
                              kin_shim_bytes emit, void *user, char *error) {
    return guarded(error, [&] {
        /* One thread: the order of additions, and so the scores, depend on their number. */
        const std::unordered_map<std::string, std::string> options = {
            {"model_type", "unigram"},
            {"vocab_size", std::to_string(vocab_size)},
            {"pad_id", "0"},
            {"eos_id", "1"},
            {"unk_id", "2"},
            {"bos_id", "-1"},
            {"pad_piece", "<pad>"},
            {"hard_vocab_limit", "false"},
            {"character_coverage", "1.0"},
            {"num_threads", "1"},
            {"minloglevel", "3"},
            {"normalization_rule_name", "nmt_nfkc"}};
        List list(sentences, count);
        std::string model;
        const auto status = sentencepiece::SentencePieceTrainer::Train(options, &list, &model);
        if (status.ok()) emit(user, model.data(), model.size());
        return status;
    });
}

#endif
