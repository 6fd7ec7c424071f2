import { ValueError } from "../errors.ts";

const f = Math.fround;

/**
 * Solves `A x = b` in float32 by an LU factorization with row pivots: for few unknowns to the last bit what torch gives
 * on a CPU, whose LAPACK multiplies by reciprocals of the pivots, and sums up before it subtracts.
 *
 * @param matrix the rows of A, of which there are as many as columns
 * @throws ValueError for a matrix with a pivot of 0.
 * @see torch `torch.linalg.solve`
 */
export function solve32(matrix: readonly Float32Array[], b: Float32Array): Float32Array {
  const n = b.length;
  const A = matrix.map((row) => row.slice());
  const x = b.slice();

  // P A = L U, both in the place of A; the rows of b change places along.
  for (let k = 0; k < n; k++) {
    let p = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(A[i]![k]!) > Math.abs(A[p]![k]!)) p = i;
    [A[k], A[p]] = [A[p]!, A[k]!];
    [x[k], x[p]] = [x[p]!, x[k]!];
    const pivot = A[k]![k]!;
    if (pivot === 0) {
      throw new ValueError("The matrix of a solver's coefficients is singular: two of its noise levels are the same.", {
        field: "sigmas",
      });
    }
    const reciprocal = f(1 / pivot);
    for (let i = k + 1; i < n; i++) {
      const row = A[i]!;
      row[k] = row[k]! * reciprocal;
      for (let j = k + 1; j < n; j++) row[j] = row[j]! - f(row[k]! * A[k]![j]!);
    }
  }

  for (let i = 1; i < n; i++) {
    let sum = 0;
    for (let j = 0; j < i; j++) sum = f(sum + f(A[i]![j]! * x[j]!));
    x[i] = x[i]! - sum;
  }
  for (let i = n - 1; i >= 0; i--) {
    let sum = 0;
    for (let j = n - 1; j > i; j--) sum = f(sum + f(A[i]![j]! * x[j]!));
    x[i] = f(x[i]! - sum) * f(1 / A[i]![i]!);
  }
  return x;
}
