/** The prompt the page opens with. */
export const firstPrompt = "a fox on a purple background";

/** What a chip says, the prompt it stands for, and the background's colour where there is one. */
export interface Example {
  readonly label: string;
  readonly prompt: string;
  readonly colour?: string;
}

/** Shown under the prompt: things the embedded checkpoint draws well. */
export const examples: readonly Example[] = [
  example("a fox", "purple"),
  example("a red apple"),
  example("a unicorn", "yellow"),
  example("a rocket"),
  example("a penguin", "red"),
  example("a donut"),
  example("a sailboat", "orange"),
  example("a cactus", "pink"),
];

/** A part of the embedded checkpoint's concepts, by their main names. */
const things =
  "a fox|a cat|a dog|a panda|an owl|a koala|a lion|a tiger|a unicorn|a giraffe|an elephant|a penguin|a frog|a turtle|" +
  "an octopus|a butterfly|a bee|a ladybug|a t-rex|a rose|a sunflower|a tulip|a pine tree|a palm tree|a cactus|a mushroom|" +
  "a rainbow|a snowman|a volcano|a planet|a watermelon|a pineapple|a strawberry|an avocado|a carrot|a hamburger|a pizza|" +
  "a donut|a cupcake|a birthday cake|a cup of coffee|a castle|a house|a steam train|a fire truck|a sailboat|a helicopter|" +
  "a rocket|a ufo|a soccer ball|a teddy bear|a trophy|a crown|a top hat|a diamond|a guitar|a piano|a light bulb|a robot|" +
  "an alien|a ghost|a skull|a clown face|an astronaut";
const colours = "red|orange|yellow|green|blue|purple|pink|brown|gray|black|sky blue";

function pick(list: string): string {
  const choices = list.split("|");
  return choices[Math.floor(Math.random() * choices.length)]!;
}

/** A random thing, three times in four on a coloured background. */
export function surprise(): string {
  return example(pick(things), Math.random() < 0.25 ? undefined : pick(colours)).prompt;
}

function example(label: string, colour?: string): Example {
  if (colour === undefined) return { label, prompt: label };
  return { label, prompt: `${label} on ${colour === "orange" ? "an" : "a"} ${colour} background`, colour };
}
