//! AdamW (Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2).

/// Shares of the last moments that stay.
const KEPT: [f32; 2] = [0.9, 0.999];

const EPSILON: f32 = 1e-8;

/// First and second moments of a parameter's gradients.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments(pub [Vec<f32>; 2]);

impl Moments {
    /// Both, to be moved.
    pub fn parts(&mut self) -> [&mut [f32]; 2] {
        self.0.each_mut().map(|moments| &mut moments[..])
    }

    pub fn zero(n: usize) -> Self {
        Self([vec![0.0; n], vec![0.0; n]])
    }
}

/// One step.
pub(crate) struct Adam {
    pub rate: f32,
    pub decay: f32,
    /// Steps before this one.
    pub step: usize,
}

impl Adam {
    /// Moves values against their gradient.
    pub fn step(&self, values: &mut [f32], moments: [&mut [f32]; 2], gradient: &[f32]) {
        let t = i32::try_from(self.step + 1).unwrap_or(i32::MAX);
        let [unbias_first, unbias_second] = KEPT.map(|kept| 1.0 / (1.0 - kept.powi(t)));
        let [firsts, seconds] = moments;
        for (((value, first), second), g) in values.iter_mut().zip(firsts).zip(seconds).zip(gradient) {
            *first = KEPT[0] * *first + (1.0 - KEPT[0]) * g;
            *second = KEPT[1] * *second + (1.0 - KEPT[1]) * g * g;
            let step = (*first * unbias_first) / ((*second * unbias_second).sqrt() + EPSILON);
            *value -= self.rate * (step + self.decay * *value);
        }
    }
}
