import { DPMSolverSinglestepScheduler } from "@diffusers-web/core";
import { expect, test, vi } from "vitest";

// scheduler = DPMSolverSinglestepScheduler(**config); scheduler.set_timesteps(n)
// scheduler.order_list, scheduler.config.lower_order_final
test.each([
  [{ final_sigmas_type: "sigma_min" }, 6, [1, 2, 1, 2, 1, 2], false],
  [{ final_sigmas_type: "sigma_min" }, 7, [1, 2, 1, 2, 1, 2, 1], true],
  [{}, 6, [1, 2, 1, 2, 1, 1], true],
  [{ solver_order: 3, final_sigmas_type: "sigma_min" }, 6, [1, 2, 3, 1, 2, 3], false],
  [{ solver_order: 3, final_sigmas_type: "sigma_min" }, 8, [1, 2, 3, 1, 2, 3, 1, 2], true],
  [{ solver_order: 3, final_sigmas_type: "sigma_min", lower_order_final: true }, 9, [1, 2, 3, 1, 2, 3, 1, 2, 1], true],
  [{ solver_order: 3, lower_order_final: true }, 7, [1, 2, 3, 1, 2, 3, 1], true],
  [{ solver_order: 1 }, 3, [1, 1, 1], true],
])("the orders of %j in %i steps", (config, steps, orders, lower_order_final) => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  const scheduler = new DPMSolverSinglestepScheduler(config);
  scheduler.set_timesteps(steps);
  expect(scheduler.order_list).toEqual(orders);
  // It is turned on where it must be, for good, and that is said.
  expect(scheduler.config.lower_order_final).toBe(lower_order_final);
  expect(`${scheduler}`).toContain(`"lower_order_final": ${lower_order_final}`);
  expect(warn).toHaveBeenCalledTimes(lower_order_final && !("lower_order_final" in config) ? 1 : 0);
  warn.mockRestore();
});

test("mu stays until it is given again, as in Diffusers", () => {
  vi.spyOn(console, "warn").mockImplementation(() => {});
  const scheduler = new DPMSolverSinglestepScheduler({ use_flow_sigmas: true, use_dynamic_shifting: true });
  scheduler.set_timesteps(5);
  const plain = scheduler.sigmas;
  scheduler.set_timesteps(5, { mu: 1 });
  const shifted = scheduler.sigmas;
  expect(shifted).not.toEqual(plain);
  scheduler.set_timesteps(5);
  expect(scheduler.sigmas).toEqual(shifted);
  vi.restoreAllMocks();
});
