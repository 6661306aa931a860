//! The ladder of weights: what comes after the weight that the canary has now. It is computed from the spec and the present weight
//! alone, never from a position in a list, so editing the steps in mid-run goes on from where the traffic is.

use crate::api::CanaryAnalysis;
use crate::routing::Weight;

/// What comes after the present weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Raise the canary to this weight.
    Raise(Weight),
    /// The top is reached; what remains is the promotion.
    Top,
}

/// The step after `present`. With `stepWeights` (and no `stepWeight`) the first listed weight above it, otherwise `stepWeight` more.
/// As in Flagger `maxWeight` ends the ladder but does not cap it: 20 up to 50 goes 20, 40, 60.
#[must_use]
pub fn next_step(analysis: &CanaryAnalysis, present: Weight) -> NextStep {
    let now = i64::from(present.percent());
    if now >= analysis.max_weight().min(100) {
        return NextStep::Top;
    }
    let listed = analysis.step_weight() <= 0 && !analysis.step_weights.is_empty();
    let next = if listed {
        analysis
            .step_weights
            .iter()
            .copied()
            .filter(|weight| *weight > now)
            .min()
    } else if analysis.step_weight() > 0 {
        Some(now + analysis.step_weight())
    } else {
        None
    };
    next.map_or(NextStep::Top, |weight| {
        NextStep::Raise(Weight::clamped(weight))
    })
}

/// The weights that a whole run goes through, in order.
#[must_use]
pub fn ladder(analysis: &CanaryAnalysis) -> Vec<Weight> {
    let mut steps = Vec::new();
    let mut present = Weight::NONE;
    while let NextStep::Raise(weight) = next_step(analysis, present) {
        if weight <= present {
            break;
        }
        steps.push(weight);
        present = weight;
    }
    steps
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn weights(analysis: &serde_json::Value) -> Vec<u8> {
        let analysis: CanaryAnalysis = serde_json::from_value(analysis.clone()).unwrap();
        ladder(&analysis).into_iter().map(Weight::percent).collect()
    }

    #[test]
    fn ladders_are_flaggers() {
        let table = [
            (
                serde_json::json!({"stepWeight": 20, "maxWeight": 50}),
                vec![20, 40, 60],
            ),
            (
                serde_json::json!({"stepWeight": 10, "maxWeight": 30}),
                vec![10, 20, 30],
            ),
            (
                serde_json::json!({"stepWeight": 20}),
                vec![20, 40, 60, 80, 100],
            ),
            (serde_json::json!({"stepWeight": 100}), vec![100]),
            (
                serde_json::json!({"stepWeights": [1, 2, 10, 200]}),
                vec![1, 2, 10, 100],
            ),
            (
                serde_json::json!({"stepWeights": [1, 2, 10, 80]}),
                vec![1, 2, 10, 80],
            ),
        ];
        for (analysis, expected) in table {
            assert_eq!(weights(&analysis), expected, "{analysis}");
        }
    }

    #[test]
    fn a_weight_that_is_not_in_the_list_goes_on_with_the_next_higher_one() {
        let analysis: CanaryAnalysis =
            serde_json::from_value(serde_json::json!({"stepWeights": [10, 30, 50]})).unwrap();
        assert_eq!(
            next_step(&analysis, Weight::clamped(20)),
            NextStep::Raise(Weight::clamped(30))
        );
        assert_eq!(next_step(&analysis, Weight::clamped(70)), NextStep::Top);
    }
}
