/** Figures of groups: their names, what they say in one sentence, and what chance gives. Keys as in a sweep's table. */

/**
 * `key` in a sweep's table; `path` in metrics.json; `chance`: a number, or the path of the level that was measured;
 * `lower`: lower is better; `plain`: no share, so it has no scale of its own.
 */
export const FIGURES = [
  { key: 'ari', name: 'ARI', chance: 0, says: 'How often two images are together, or apart, as their labels are; 1 is perfect.' },
  { key: 'ami', name: 'AMI', chance: 0, says: 'How much the groups tell about the labels; 1 is all.' },
  { key: 'accuracy_hungarian_train', path: ['accuracy', 'hungarian', 'train'], name: 'Accuracy, one to one', says: 'Each label gets one group of its own; the share of images in the group of their label.' },
  { key: 'accuracy_hungarian_scored', path: ['accuracy', 'hungarian', 'scored'], name: 'Accuracy, one to one, own map', chance: ['chance', 'accuracy'], says: 'As before, with the groups named by these very images: optimistic.' },
  { key: 'accuracy_majority_train', path: ['accuracy', 'majority', 'train'], name: 'Accuracy, majority', says: 'Each group is named by its most frequent label; the share of images whose group has their label.' },
  { key: 'accuracy_majority_scored', path: ['accuracy', 'majority', 'scored'], name: 'Accuracy, majority, own map', chance: ['chance', 'accuracy_majority'], says: 'As before, with the groups named by these very images; the same as purity.' },
  { key: 'accuracy_mixed_train', path: ['accuracy', 'mixed', 'train'], name: 'Accuracy, mixed', says: 'One group per label first, the groups that remain by majority.' },
  { key: 'purity', name: 'Purity', chance: ['chance', 'accuracy_majority'], says: 'The share of images that have the most frequent label of their group. More groups are purer.' },
  { key: 'homogeneity', name: 'Homogeneity', says: 'Whether each group holds one label only; 1 if so.' },
  { key: 'completeness', name: 'Completeness', says: 'Whether each label lies in one group only; 1 if so.' },
  { key: 'nmi_arithmetic', name: 'NMI', chance: ['chance', 'nmi'], says: 'As AMI, without the correction for chance: many small groups raise it.' },
  { key: 'fowlkes_mallows', name: 'Fowlkes-Mallows', says: 'Of pairs that are together in groups or labels, how many are in both.' },
  { key: 'silhouette', name: 'Silhouette', says: 'How much nearer images are to their own group than to the next, −1 to 1; needs no labels.' },
  { key: 'stability', name: 'Stability', chance: 0, says: 'How alike the groups of two seeds are (ARI); needs no labels.' },
  { key: 'neighbour_agreement', name: 'Agreement with nearest images', chance: 0, says: 'How much more often than by chance the nearest images are in one group, of groups by a network; needs no labels.' },
  { key: 'davies_bouldin', name: 'Davies-Bouldin', lower: true, plain: true, says: 'Spread of the groups over the distance to their neighbours; lower is better.' },
  { key: 'calinski_harabasz', name: 'Calinski-Harabasz', plain: true, says: 'Variance between groups over variance within; higher is better.' },
  { key: 'inertia', name: 'Inertia', lower: true, plain: true, says: 'Sum of squared distances to the centroids; more groups lower it.' },
  { key: 'empty_clusters', name: 'Empty groups', lower: true, plain: true, says: 'Groups without any of these images.' },
  { key: 'size_imbalance', name: 'Size imbalance', lower: true, plain: true, says: 'The largest group over the mean; 1 if all are of one size.' },
];

export const figureOf = (key) => FIGURES.find((each) => each.key === key) || { key, name: key, says: '' };

const look = (values, path) => path.reduce((found, part) => found?.[part], values);

/** Whether a figure is a share of images, written in percent. */
export const isShare = (figure) => figure.key === 'purity' || figure.key.startsWith('accuracy');

/** What chance gives; on the set that the groups were made of (`itself`), both maps of accuracy are the same. */
export function chanceOf(figure, entry, itself) {
  const { chance } = valueOf(figure, entry);
  if (chance !== null || !itself || !figure.key.startsWith('accuracy')) return chance;
  const own = FIGURES.find(({ key }) => key === figure.key.replace('_train', '_scored'));
  return (own && valueOf(own, entry)?.chance) ?? null;
}

/** Value, deviation and chance of a figure in an entry of metrics.json; null if it does not apply. */
export function valueOf(figure, entry) {
  if (figure.key === 'stability') {
    const found = entry.stability;
    return found ? { value: found.ari_mean, std: found.ari_std, chance: 0 } : null;
  }
  const path = figure.path || [figure.key];
  const value = look(entry.mean, path);
  if (typeof value !== 'number') return null;
  const chance = Array.isArray(figure.chance) ? look(entry.mean, figure.chance) : figure.chance;
  return { value, std: look(entry.std, path), chance: typeof chance === 'number' ? chance : null };
}
