"""Spark rivals: what one would write first in Spark instead of the graph and soft targets.

Plain DataFrame joins and aggregations, same definitions, same results.
"""

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.spark import read
from schemas.partitions import Partition
from schemas.settings import ItemGraphSettings, SoftTargetsSettings


def count_pairs(
    spark: SparkSession, sequences: Partition, settings: ItemGraphSettings
) -> DataFrame:
    """Summed weight of every unordered pair of items, by a self-join of training positions.

    Returns:
        item_index < neighbour_index, pair_weight; without time decay and user damping.
    """
    training = F.slice("item_indices", 1, F.col("num_train"))
    positions = read(spark, [sequences]).select("user_id", F.posexplode(training))
    earlier = positions.select("user_id", F.col("pos").alias("p"), F.col("col").alias("i"))
    later = positions.select("user_id", F.col("pos").alias("q"), F.col("col").alias("j"))
    distance = F.col("q") - F.col("p")
    is_pair = distance.between(1, settings.window) & (F.col("i") != F.col("j"))
    weight = F.pow(F.lit(settings.position_decay), distance - 1)
    return (
        earlier.join(later, "user_id")
        .where(is_pair)
        .groupBy(
            F.least("i", "j").alias("item_index"), F.greatest("i", "j").alias("neighbour_index")
        )
        .agg(F.sum(weight).alias("pair_weight"))
    )


def propagate(
    spark: SparkSession,
    graph: Partition,
    items: Partition,
    settings: SoftTargetsSettings,
    num_iterations: int,
) -> DataFrame:
    """Label mass that reached items from every item, by one join with the graph an iteration.

    Args:
        spark: The session.
        graph: The item graph.
        items: The catalogue; all its items are seeds.
        settings: α and top_k; rows are pruned after every iteration.
        num_iterations: As many as the stage needed.

    Returns:
        seed, item, mass.
    """
    seeds = read(spark, [items]).select(F.col("item_index").alias("seed"))
    edges = shares(read(spark, [graph]), seeds).localCheckpoint()
    start = seeds.select("seed", F.col("seed").alias("item"), F.lit(1.0).alias("mass"))
    largest = Window.partitionBy("seed").orderBy(F.desc("mass"), "item")
    stay = start.withColumn("mass", F.lit(1 - settings.alpha))
    moved_mass = (settings.alpha * F.col("mass") * F.col("share")).alias("mass")
    mass = start
    for _ in range(num_iterations):
        moved = mass.join(edges, "item").select(
            "seed", F.col("neighbour").alias("item"), moved_mass
        )
        summed = moved.unionByName(stay).groupBy("seed", "item").agg(F.sum("mass").alias("mass"))
        ranked = summed.withColumn("rank", F.row_number().over(largest))
        mass = ranked.where(F.col("rank") <= settings.top_k).drop("rank").localCheckpoint()
    return mass


def shares(graph: DataFrame, seeds: DataFrame) -> DataFrame:
    """The row-stochastic graph: item, neighbour, share; an item without edges leads to itself."""
    edges = graph.where("weight > 0").select(
        F.col("item_index").alias("item"), F.col("neighbour_index").alias("neighbour"), "weight"
    )
    items = seeds.select(F.col("seed").alias("item"))
    alone = items.join(edges, "item", "left_anti").select(
        "item", F.col("item").alias("neighbour"), F.lit(1.0).alias("share")
    )
    total = F.sum("weight").over(Window.partitionBy("item"))
    share = edges.select("item", "neighbour", (F.col("weight") / total).alias("share"))
    return share.unionByName(alone)
