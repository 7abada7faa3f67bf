//! Between slices and the tensors of the crate that gives gradients.

use burn_tensor::{Device, Tensor, TensorData};

/// Rows of `width` values.
pub(crate) fn rows(values: &[f32], width: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len() / width, width]), device)
}

/// The values of a tensor, row-major.
pub(crate) fn floats(tensor: &Tensor<2>) -> Vec<f32> {
    #[allow(clippy::expect_used, reason = "the backend's only type of floats is f32")]
    tensor.to_data().try_to_vec().expect("floats are f32")
}

/// Gradients of the sum of `y` times `slope` by each parameter; zeros where `y` does not depend on one.
pub(crate) fn gradients(y: Tensor<2>, slope: Tensor<2>, parameters: &[Tensor<2>]) -> Vec<Vec<f32>> {
    let gradients = (y * slope).sum().backward();
    parameters
        .iter()
        .map(|p| p.grad(&gradients).map_or_else(|| vec![0.0; p.dims().iter().product()], |g| floats(&g)))
        .collect()
}
