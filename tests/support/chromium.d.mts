export function findChromium(log?: (line: string) => void): string | undefined;
export function getChromium(log?: (line: string) => void): string | undefined;
