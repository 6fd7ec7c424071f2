import { EDMDPMSolverMultistepScheduler, EDMEulerScheduler, Generator, Tensor, ValueError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { expectClose } from "../../support/allclose.ts";

const x = Tensor.from([
  [-0.5, -0.25, 0],
  [0.25, 0.5, 0.75],
]);
const output = Tensor.from([
  [0.5, -1, 2],
  [1.5, 0.25, -3],
]);
// One float32 operation after another, as torch: at most a last bit, of a root or a logarithm.
const BIT = 1.2e-7;

describe.each([EDMEulerScheduler, EDMDPMSolverMultistepScheduler])("$name preconditions", (Scheduler) => {
  test("inputs, with a sigma for all or one per batch item", () => {
    const scheduler = new Scheduler();
    // scheduler.precondition_inputs(x, torch.tensor(0.7))
    const one = [
      -0.5812382102012634, -0.2906191051006317, 0, 0.2906191051006317, 0.5812382102012634, 0.8718572854995728,
    ];
    expectClose(scheduler.precondition_inputs(x, 0.7).data, one, BIT);
    // scheduler.precondition_inputs(x, torch.tensor([[0.7], [12.0]]))
    const two = [...one.slice(0, 3), 0.020815271884202957, 0.041630543768405914, 0.06244581565260887];
    expectClose(scheduler.precondition_inputs(x, [0.7, 12]).data, two, BIT);
    expect(() => scheduler.precondition_inputs(x, [0.7, 12, 3])).toThrow(ValueError);
  });

  test("noise", () => {
    // scheduler.precondition_noise(torch.tensor([0.7, 12.0]))
    expectClose(new Scheduler().precondition_noise([0.7, 12]), [-0.0891687422990799, 0.6212266683578491], BIT);
    expect(new Scheduler().precondition_noise(0.7)).toHaveLength(1);
  });

  // Scheduler(prediction_type=...).precondition_outputs(x, output, torch.tensor([[0.7], [12.0]]))
  test.each([
    [
      "epsilon",
      [0.03451444208621979, -0.4913261830806732, 0.8137334585189819],
      [0.7497830390930176, 0.12575818598270416, -1.4973996877670288],
    ],
    [
      "v_prediction",
      [-0.3723523020744324, 0.3224072754383087, -0.8137334585189819],
      [-0.748916506767273, -0.12402507662773132, 1.4999994039535522],
    ],
  ])("outputs of %s", (prediction_type, first, second) => {
    const scheduler = new Scheduler({ prediction_type });
    expectClose(scheduler.precondition_outputs(x, output, [0.7, 12]).data, [...first, ...second], BIT);
    const single = Tensor.from([[-0.5, -0.25, 0]]);
    const half = Tensor.from([[0.5, -1, 2]]);
    expectClose(scheduler.precondition_outputs(single, half, 0.7).data, first, BIT);
  });
});

test("EDMEulerScheduler takes a denoised sample in place of the model's output", () => {
  const scheduler = new EDMEulerScheduler();
  scheduler.set_timesteps(4);
  const options = { pred_original_sample: output };
  // scheduler.step(x, scheduler.timesteps[0], x, pred_original_sample=output)
  const first = scheduler.step(x, scheduler.timesteps[0]!, x, options);
  const prev = [0.3784599304199219, -0.9088449478149414, 1.7569198608398438];
  expectClose(first.prev_sample.data, [...prev, 1.3480749130249023, 0.28038501739501953, -2.544224739074707], 1e-6);
  expect(first.pred_original_sample).toBe(output);
  // The same at timesteps[1] with s_churn=2.0, generator=torch.Generator().manual_seed(5)
  const churn = { ...options, s_churn: 2, generator: new Generator().manual_seed(5) };
  const second = scheduler.step(x, scheduler.timesteps[1]!, x, churn);
  const churned = [0.30405187606811523, -1.1750311851501465, 1.74617338180542];
  expectClose(second.prev_sample.data, [...churned, 1.6791119575500488, 0.19293856620788574, -2.226194381713867], 1e-6);
  const wide = { pred_original_sample: Tensor.zeros([2, 4]) };
  expect(() => scheduler.step(x, scheduler.timesteps[2]!, x, wide)).toThrow(/\[2,4\].*\[2,3\]/);
});

test("EDMEulerScheduler refuses an index in place of a timestep, in the middle of a run too", () => {
  const scheduler = new EDMEulerScheduler();
  scheduler.set_timesteps(4);
  scheduler.scale_model_input(x, scheduler.timesteps[0]!);
  scheduler.step(output, scheduler.timesteps[0]!, x);
  expect(() => scheduler.step(output, 1, x)).toThrow(ValueError);
  expect(scheduler.step_index).toBe(1);
});
