// The logit rules of sequences, as the last stage keeps them.
#include "stages/rule_book.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"

namespace penstock {
namespace {

class RuleBooks : public testing::Test {
 protected:
  /// A plan that samples the token at `position` of sequence 5.
  static proto::Plan step(uint32_t position, uint32_t token) {
    proto::Plan plan;
    auto* row = plan.add_rows();
    row->set_sequence(5);
    row->add_tokens(token);
    row->mutable_sampling()->set_ruled(true);
    row->mutable_sampling()->set_position(position);
    return plan;
  }
  static proto::LogitRules& told(proto::Plan& plan) {
    proto::LogitRules& rules = *plan.mutable_rows(0)->mutable_sampling()->mutable_rules();
    rules.set_repetition_penalty(1.5F);
    rules.set_frequency_penalty(0.5F);
    rules.set_presence_penalty(0.25F);
    return rules;
  }
  static std::string text(const SampleParams& params) {
    std::string all;
    for (const LogitEdit& e : params.edits)
      all += std::to_string(e.token) + " +" + std::to_string(static_cast<int>(e.add)) + " *" +
             std::to_string(static_cast<int>(e.repeat * 100)) + " -" +
             std::to_string(static_cast<int>(e.less * 100)) + "; ";
    return all;
  }
  std::string after(RuleBook& book, const proto::Plan& plan) {
    params_.assign(1, {});
    book.apply(plan, params_);
    return text(params_[0]);
  }
  std::string refusal(RuleBook& book, const proto::Plan& plan) {
    try {
      after(book, plan);
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  }
  std::vector<SampleParams> params_;
};

TEST_F(RuleBooks, CountOnFromWhatTheyWereTold) {
  RuleBook book(100);
  proto::Plan first = step(2, 9);
  proto::LogitRules& rules = told(first);
  for (const uint32_t id : {9, 3, 9}) rules.add_prompt(id);
  for (const uint32_t id : {7, 7}) rules.add_generated(id);
  rules.add_biased(3);
  rules.add_bias(4);
  EXPECT_EQ(after(book, first), "3 +4 *150 -0; 7 +0 *150 -125; 9 +0 *150 -0; ");
  EXPECT_EQ(after(book, step(3, 3)), "3 +4 *150 -75; 7 +0 *150 -125; 9 +0 *150 -0; ");
  EXPECT_EQ(after(book, step(4, 7)), "3 +4 *150 -75; 7 +0 *150 -175; 9 +0 *150 -0; ");
}

TEST_F(RuleBooks, SayTheSameWhenToldAgainAfterAPreemption) {
  RuleBook counted(100), told_again(100);
  proto::Plan first = step(0, 1);
  told(first);
  after(counted, first);
  std::string expected;
  for (uint32_t i = 0; i < 20; ++i) expected = after(counted, step(i + 1, i % 7));
  proto::Plan again = step(20, 6);
  proto::LogitRules& rules = told(again);
  for (uint32_t i = 0; i < 20; ++i) rules.add_generated(i % 7);
  EXPECT_EQ(after(told_again, again), expected);
}

TEST_F(RuleBooks, DoNotCountAPlanTwice) {
  RuleBook book(100);
  proto::Plan first = step(0, 1);
  told(first);
  after(book, first);
  const std::string once = after(book, step(1, 8));
  EXPECT_EQ(after(book, step(1, 8)), once);
}

TEST_F(RuleBooks, ForgetWhatAPlanSaysHasEnded) {
  RuleBook book(100);
  proto::Plan first = step(0, 1);
  told(first);
  after(book, first);
  proto::Plan next = step(1, 8);
  next.add_forgotten(5);
  EXPECT_NE(refusal(book, next).find("sequence 5: expected rules told before, found none"),
            std::string::npos);
}

TEST_F(RuleBooks, RefuseWhatDoesNotFit) {
  RuleBook book(100);
  proto::Plan outside = step(0, 1);
  told(outside).add_allowed(100);
  EXPECT_NE(refusal(book, outside).find("expected tokens below 100, found 100"), std::string::npos);
  proto::Plan uneven = step(0, 1);
  told(uneven).add_biased(3);
  EXPECT_NE(refusal(book, uneven).find("expected 1 biases, found 0"), std::string::npos);
  proto::Plan negative = step(0, 1);
  told(negative).set_repetition_penalty(-1);
  EXPECT_NE(refusal(book, negative).find("repetition penalty above 0"), std::string::npos);
  proto::Plan first = step(0, 1);
  told(first);
  after(book, first);
  EXPECT_NE(refusal(book, step(3, 8)).find("expected 3 tokens counted, found 0"), std::string::npos);
}

}  // namespace
}  // namespace penstock
